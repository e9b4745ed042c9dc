"""Every model family, cut over four processes, against transformers on documents alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from longrun.nn.weighted_document import WeightedDocument

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("families")]
SIZES = {
    "vocab_size": 66,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0} | {
    "original_max_position_embeddings": 64
}
FAMILIES = {
    "qwen2, tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 with yarn": Qwen2Config(**SIZES, rope_parameters=YARN, tie_word_embeddings=False),
    "qwen3 with biases": Qwen3Config(
        **SIZES, head_dim=8, attention_bias=True, tie_word_embeddings=False
    ),
    "llama 3.1": LlamaConfig(**SIZES, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=4, tie_word_embeddings=False),
}
LENGTHS = (11, 1, 29, 6)


def draw_documents() -> list[WeightedDocument]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 66, length).astype(np.int32),
            rng.choice(np.array([0.5, 1], np.float32), length),
        )
        for length in LENGTHS
    ]


def alone(folder: Path, documents: list[WeightedDocument]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return transformers' loss and gradients, one document after the other."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    total = sum(float(weights[1:].sum()) for _, weights in documents)
    loss = 0.0
    for tokens, weights in documents:
        inputs = torch.from_numpy(tokens).long()
        logits = model(inputs[None]).logits[0, :-1]
        nll = functional.cross_entropy(logits, inputs[1:], reduction="none")
        part = (nll * torch.from_numpy(weights[1:]).double()).sum() / total
        part.backward()
        loss += part.item()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for index, (name, config) in enumerate(FAMILIES.items()):
        torch.manual_seed(index)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(root / name)
    return {name: root / name for name in FAMILIES}


@pytest.fixture(scope="module")
def cut(run_ranks, folders) -> list[dict[str, dict[str, Any]]]:
    """Return what each rank saw, by family."""
    ranks = run_ranks("families.py", 4, list(folders.values()), draw_documents())
    return [dict(zip(folders, rank, strict=True)) for rank in ranks]


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_every_gradient_are_those_of_transformers(cut, folders, name):
    loss, gradients = alone(folders[name], draw_documents())
    for rank in cut:
        got = rank[name]
        assert got["loss"] == pytest.approx(loss, rel=1e-6)
        assert got["gradients"].keys() == gradients.keys()
        for key, gradient in gradients.items():
            difference = (got["gradients"][key] - gradient).norm()
            assert difference < 1e-5 * gradient.norm() + 1e-9, key
