"""Every field of every ``config.json``, set to something else: as transformers, or refused.

The fields are those of transformers' own config classes, so a version of transformers with a new
field fails here until the field is used, held to its neutral value, or known to be harmless.
"""

import copy
import dataclasses
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from longrun.errors import InputError
from longrun.nn.architecture import FAMILIES, Arch
from longrun.nn.decoder import Decoder
from longrun.nn.known_fields import HARMLESS, NEUTRAL, USED
from longrun.nn.pack import build_pack

pytestmark = pytest.mark.timeout(600)  # hundreds of tiny models, which a busy machine builds slowly
CLASSES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig} | {
    "mistral": MistralConfig
}
BASE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
ABSENT = "absent"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FULL, SLIDING = "full_attention", "sliding_attention"
OTHERS: dict[str, list[Any]] = {
    "model_type": ["gpt2"],
    "architectures": [["LlamaForCausalLM"], ["Qwen2ForSequenceClassification"], [], None],
    "attention_bias": [True, False, None],
    "attention_dropout": [0.5, 0, 0.0, None],
    "dtype": ["bfloat16", "float8_e4m3fn", None],
    "torch_dtype": ["float16", "int8", None],
    "head_dim": [8, 5, None, ABSENT],
    "hidden_act": ["gelu", "relu", None, ABSENT],
    "hidden_size": [32, 18],
    "initializer_range": [0.5],
    "id2label": [{"0": "a"}],
    "label2id": [{"a": 0}],
    "intermediate_size": [40],
    "is_causal": [False, True, None],
    "is_encoder_decoder": [True],
    "layer_types": [
        [FULL, FULL],
        [FULL],
        [FULL, SLIDING],
        [SLIDING, SLIDING],
        ["chunked_attention", FULL],
        ["attention", FULL],
        "full_attention",
        None,
    ],
    "max_position_embeddings": [32, 0, "64"],
    "max_window_layers": [0, 1, "1", None],
    "mlp_bias": [True, False],
    "num_attention_heads": [2, 3, 8],
    "num_key_value_heads": [1, 4, 3, None, ABSENT],
    "num_hidden_layers": [1, 3, 2.5],
    "original_max_position_embeddings": [16, None],
    "pad_token_id": [3, 39, None],
    "partial_rotary_factor": [0.5, 1.0, None],
    "per_layer_config": [{"0": {"hidden_act": "relu"}}],
    "problem_type": ["regression"],
    "quantization_config": [{"quant_method": "fp8"}],
    "rms_norm_eps": [0.1, ABSENT],
    "rope_scaling": [
        YARN,
        LLAMA3,
        {},
        None,
        {"type": "yarn", "factor": 2.0},
        {"type": "yarn", "rope_type": "llama3", **YARN, "factor": 2.0},
        {"rope_type": None, "type": "yarn", "factor": 2.0},
        {**YARN, "beta_fast": 4.0, "beta_slow": 2.0, "attention_factor": 1.5},
        {**YARN, "beta_fast": 1.0, "beta_slow": 8.0},
        {**YARN, "original_max_position_embeddings": 3},
        {**YARN, "truncate": False},
        {**YARN, "truncate": None},
        {**YARN, "mscale": 2.0, "mscale_all_dim": 1.0},
        {**YARN, "mscale": 2.0},
        {**YARN, "factor": None},
        {**YARN, "factor": 0.5},
        {**YARN, "finetuned": True},
        {**YARN, "rope_theta": 500.0},
        {"type": "linear", "factor": 2.0},
        {"type": "dynamic", "factor": 2.0},
        {"type": "mrope", "mrope_section": [2, 3, 3]},
        {"rope_type": "default", "factor": 2.0},
        {**LLAMA3, "low_freq_factor": 4.0},
        {**LLAMA3, "factor": 1.0},
        "yarn",
    ],
    "rope_parameters": [
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "default"},
        {"rope_theta": 500.0},
        {**YARN, "rope_theta": 500.0},
        {**LLAMA3, "rope_theta": 500.0},
        {**YARN, "rope_theta": None},
        {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        {"full_attention": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]},
        {},
        None,
    ],
    "rope_theta": [500.0, 500, ABSENT, None],
    "sliding_window": [8, 64, 0, ABSENT],
    "tie_word_embeddings": [True, ABSENT],
    "use_sliding_window": [True, False],
    "vocab_size": [41],
    "eos_token_id": [3, [3, 4], "3", True],
    "unk_token_id": [0],
    "_model_name_or_path": ["somebody/something"],
}
TOGETHER: list[dict[str, Any]] = [
    {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    {"rope_scaling": YARN, "rope_parameters": {**YARN, "rope_theta": 10_000.0}},
    {"rope_scaling": YARN, "original_max_position_embeddings": 32},
    {"rope_scaling": LLAMA3, "original_max_position_embeddings": 8},
    {"rope_scaling": LLAMA3, "original_max_position_embeddings": None},
    {"rope_scaling": YARN, "partial_rotary_factor": 0.5},
    {"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": 8, "layer_types": [FULL, FULL]},
    {"use_sliding_window": True, "sliding_window": 8, "layer_types": [FULL, SLIDING]},
    {"use_sliding_window": True, "sliding_window": 64, "layer_types": [FULL, SLIDING]},
    {"use_sliding_window": True, "sliding_window": None, "layer_types": [FULL, SLIDING]},
    {"use_sliding_window": False, "sliding_window": 64, "layer_types": [SLIDING, SLIDING]},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": "1"},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
    {"dtype": "bfloat16", "torch_dtype": "float32"},
    {"dtype": "bfloat16", "torch_dtype": None},
    {"attention_bias": True, "mlp_bias": True},
]


@pytest.fixture(autouse=True)
def one_thread():
    """Models as small as these are only slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def names_of(family: str) -> list[str]:
    """Return every field that transformers itself has, and those that it reads besides."""
    own = {field.name for field in dataclasses.fields(CLASSES[family])}
    return sorted(own | set(OTHERS) | NEUTRAL.keys())


def other_values(family: str, name: str) -> list[Any]:
    if name in OTHERS:
        return OTHERS[name]
    default = getattr(CLASSES[family](), name, None)
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int | float) or name.endswith("_token_id"):
        return [(default or 0) + 1]
    return ["other"]


def changed(family: str, changes: dict[str, Any]) -> dict[str, Any]:
    config = {**BASE, "model_type": family, **copy.deepcopy(changes)}
    return {name: value for name, value in config.items() if value is not ABSENT}


@cache
def document() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.permutation(np.arange(40, dtype=np.int32))
    return tokens, np.ones(len(tokens), np.float32)


def theirs_of(config: dict[str, Any], folder) -> torch.nn.Module:
    """Build transformers' model from a file, with lively parameters, ready to train."""
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    read = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(read, attn_implementation="eager").float().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    # The one difference that was decided: see the test of the padding token below.
    model.get_input_embeddings().padding_idx = None
    return model


def assert_as_transformers_or_refused(config: dict[str, Any], folder) -> str:
    """Return what happened: ``refused``, or ``equal``."""
    tokens, weights = document()
    try:
        arch = Arch.from_hf(copy.deepcopy(config), "config.json")
    except InputError:
        return "refused"
    theirs = theirs_of(config, folder)
    ours = Decoder(arch, backend="sdpa")
    ours.load_state_dict(theirs.state_dict())
    ids = torch.from_numpy(tokens).long()
    logits = theirs(ids[None], return_dict=True).logits[0]
    functional.cross_entropy(logits[:-1], ids[1:], reduction="sum").backward()
    layout = build_pack([(tokens, weights)])
    ours.loss(layout).backward()
    torch.testing.assert_close(ours.logits(layout), logits, rtol=1e-4, atol=5e-5)
    for name, parameter in theirs.named_parameters():
        difference = (ours.get_parameter(name).grad - parameter.grad).norm()
        assert difference <= 1e-4 * parameter.grad.norm() + 1e-6, name
    return "equal"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_that_transformers_has_is_known(family):
    generation = set(GenerationConfig._get_default_generation_params())
    unknown = (set(names_of(family)) | generation) - USED - NEUTRAL.keys() - HARMLESS
    unknown = {name for name in unknown if not name.endswith("_token_id")}
    assert not unknown, "use it, refuse all but its neutral value, or list it as harmless"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_set_to_something_else_is_computed_as_transformers_does_or_refused(
    family, tmp_path
):
    outcomes: dict[str, list[str]] = {}
    for name in names_of(family):
        for value in other_values(family, name):
            case = changed(family, {name: value})
            try:
                outcome = assert_as_transformers_or_refused(case, tmp_path)
            except Exception as error:
                raise AssertionError(f"{name} set to {value!r}: {error}") from error
            outcomes.setdefault(name, []).append(outcome)
    harmless = outcomes.keys() & HARMLESS
    assert {"equal"} == {outcome for name in harmless for outcome in outcomes[name]}
    assert all("refused" in outcomes[name] for name in NEUTRAL.keys() - {"is_llama_config"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", TOGETHER, ids=" ".join)
def test_fields_that_meet_are_computed_as_transformers_does_or_refused(family, changes, tmp_path):
    assert_as_transformers_or_refused(changed(family, changes), tmp_path)


@pytest.mark.parametrize("name", ["rope_theta_base", "qkv_bias", "dual_chunk_attention_config"])
def test_a_field_that_nobody_knows_is_refused_by_name(name):
    with pytest.raises(InputError, match=rf"config.json: {name}: is a field that Longrun does not"):
        Arch.from_hf(changed("qwen2", {name: 1}), "config.json")


def test_the_padding_token_gets_the_gradient_that_every_token_gets(tmp_path):
    """transformers leaves the embedding of ``pad_token_id`` without one, wherever it stands."""
    tokens, weights = document()
    config = changed("llama", {"pad_token_id": 3})
    theirs = theirs_of(config, tmp_path)
    ours = Decoder(Arch.from_hf(config, "config.json"), backend="sdpa")
    ours.load_state_dict(theirs.state_dict())
    theirs.get_input_embeddings().padding_idx = 3
    ids = torch.from_numpy(tokens).long()
    functional.cross_entropy(theirs(ids[None]).logits[0, :-1], ids[1:], reduction="sum").backward()
    ours.loss(build_pack([(tokens, weights)])).backward()
    name = "model.embed_tokens.weight"
    got, want = ours.get_parameter(name).grad, theirs.get_parameter(name).grad
    assert want[3].norm() == 0 < got[3].norm()
    others = [row for row in range(40) if row != 3]
    torch.testing.assert_close(got[others], want[others], rtol=1e-4, atol=1e-5)
