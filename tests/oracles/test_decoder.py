"""The decoder against transformers: names, logits and every gradient, for every family."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from longrun.checkpoint.weight_files import parameter_shapes
from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.nn.pack import build_pack
from longrun.nn.weighted_document import WeightedDocument

SIZES = {
    "vocab_size": 67,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "qwen2": lambda tied: Qwen2Config(**SIZES, tie_word_embeddings=tied),
    "qwen3": lambda tied: Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=tied),
    "qwen3 with biases": lambda tied: Qwen3Config(
        **SIZES, head_dim=8, attention_bias=True, tie_word_embeddings=tied
    ),
    "llama": lambda tied: LlamaConfig(**SIZES, tie_word_embeddings=tied),
    "llama 3.1": lambda tied: LlamaConfig(
        **SIZES, attention_bias=True, rope_parameters=LLAMA3, tie_word_embeddings=tied
    ),
    "qwen2 with yarn": lambda tied: Qwen2Config(
        **SIZES, rope_parameters=YARN, tie_word_embeddings=tied
    ),
    "mistral": lambda tied: MistralConfig(
        **SIZES, sliding_window=None, head_dim=4, tie_word_embeddings=tied
    ),
}
CASES = [(name, tied) for name in CONFIGS for tied in (False, True)]


@cache
def pair(name: str, tied: bool) -> tuple[torch.nn.Module, Decoder]:
    """Build a transformers model with lively parameters and our decoder with the same ones."""
    config = CONFIGS[name](tied)
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    arch = Arch.from_hf(config.to_dict(), "config.json")
    ours = Decoder(arch, backend="sdpa")
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def draw(lengths: list[int]) -> list[WeightedDocument]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 67, length).astype(np.int32),
            rng.choice(np.array([0, 0.5, 1], np.float32), length),
        )
        for length in lengths
    ]


def their_logits_and_loss(
    model: torch.nn.Module, document: WeightedDocument
) -> tuple[Tensor, Tensor]:
    tokens, weights = (torch.from_numpy(part) for part in document)
    logits = model(tokens[None].long()).logits[0]
    nll = functional.cross_entropy(logits[:-1], tokens[1:].long(), reduction="none")
    return logits, (nll * weights[1:]).sum()


def assert_equals_theirs(name: str, tied: bool, lengths: list[int]) -> None:
    theirs, ours = pair(name, tied)
    documents = draw(lengths)
    layout = build_pack(documents)
    theirs.zero_grad()
    ours.zero_grad()
    results = [their_logits_and_loss(theirs, document) for document in documents]
    expected = torch.stack([loss for _, loss in results]).sum()
    expected.backward()
    loss = ours.loss(layout, chunk_tokens=16)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=0)
    logits = torch.cat([logits for logits, _ in results])
    torch.testing.assert_close(ours.logits(layout), logits, rtol=1e-4, atol=2e-5)
    their_gradients = {key: value.grad for key, value in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        want = their_gradients.pop(key)
        assert (parameter.grad - want).norm() <= 3e-6 * want.norm() + 1e-6, key
    assert not their_gradients


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_one_document_gives_their_logits_loss_and_gradients(name, tied):
    assert_equals_theirs(name, tied, [50])


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_a_pack_gives_their_logits_loss_and_gradients_document_by_document(name, tied):
    assert_equals_theirs(name, tied, [7, 40, 2, 19])


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_has_their_parameter_names_and_shapes(name, tied):
    theirs, ours = pair(name, tied)
    named = {key: list(value.shape) for key, value in ours.named_parameters()}
    assert parameter_shapes(ours.arch) == named
    for get in (torch.nn.Module.state_dict, lambda model: dict(model.named_parameters())):
        assert {key: value.shape for key, value in get(ours).items()} == {
            key: value.shape for key, value in get(theirs).items()
        }


def test_bfloat16_over_float32_parameters_is_their_bfloat16_model():
    theirs, ours = pair("qwen2", False)
    narrow = AutoModelForCausalLM.from_config(theirs.config).bfloat16()
    narrow.load_state_dict(theirs.state_dict())
    model = Decoder(ours.arch, backend="reference", compute_dtype=torch.bfloat16)
    model.load_state_dict(theirs.state_dict())
    [document] = draw([50])
    with torch.no_grad():
        want, _ = their_logits_and_loss(narrow, document)
        exact, _ = their_logits_and_loss(theirs, document)
        got = model.logits(build_pack([document]))
    assert got.dtype == want.dtype == torch.bfloat16
    ours_off, theirs_off = (got - exact).norm(), (want - exact).norm()
    assert ours_off < 1.2 * theirs_off
