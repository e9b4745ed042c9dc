"""What ``Arch.from_hf`` reads and what it refuses."""

import subprocess
import sys
from typing import Any

import pytest

from longrun.errors import InputError
from longrun.nn.architecture import Arch
from longrun.nn.positions import Llama3RopeScaling

BASE: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
OLDER_LLAMA3 = {"type" if name == "rope_type" else name: LLAMA3[name] for name in LLAMA3}


def read(**changes: Any) -> Arch:
    config = {**BASE, **changes}
    return Arch.from_hf(
        {name: value for name, value in config.items() if value != "absent"}, "m/config.json"
    )


def test_reads_every_field():
    arch = read(rope_theta=500_000, tie_word_embeddings=True)
    assert arch == Arch(
        family="qwen2",
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        norm_eps=1e-6,
        rope_theta=500_000.0,
        rope_scaling=None,
        qkv_bias=True,
        output_bias=False,
        qk_norm=False,
        tied=True,
        max_positions=4096,
    )


def test_knows_what_sets_the_families_apart():
    qwen3 = read(model_type="qwen3", head_dim=32)
    assert (qwen3.head_dim, qwen3.qk_norm, qwen3.qkv_bias) == (32, True, False)
    llama = read(model_type="llama", num_key_value_heads="absent")
    assert (llama.num_kv_heads, llama.qkv_bias, llama.output_bias) == (4, False, False)
    mistral = read(model_type="mistral", sliding_window=None, head_dim=32)
    assert (mistral.head_dim, mistral.qkv_bias) == (32, False)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gives_all_four_projections_a_bias_where_attention_bias_asks_for_it(family):
    arch = read(model_type=family, head_dim=16, attention_bias=True)
    assert arch.qkv_bias
    assert arch.output_bias


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3},
        {"rope_parameters": {**LLAMA3, "rope_theta": 500_000.0}},
        {"rope_theta": 500_000.0, "rope_scaling": OLDER_LLAMA3},
    ],
)
def test_reads_old_and_new_spellings_of_the_rotation_alike(rope):
    arch = read(model_type="llama", **rope)
    assert arch.rope_theta == 500_000.0
    assert arch.rope_scaling == Llama3RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )


@pytest.mark.parametrize(
    "rope",
    [
        {},
        {"rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    ],
)
def test_takes_the_default_rotation(rope):
    assert read(**rope).rope_theta == 10_000.0
    assert read(**rope).rope_scaling is None


@pytest.mark.parametrize(
    "window",
    [
        {"use_sliding_window": False, "sliding_window": 1024},
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"] * 2},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 4096},
        {"model_type": "mistral"},
    ],
)
def test_accepts_a_sliding_window_that_hides_nothing(window):
    assert read(**window).max_positions == 4096


@pytest.mark.parametrize(
    "window",
    [
        {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2},
        {"model_type": "mistral", "sliding_window": 1024},
        {"model_type": "mistral", "max_position_embeddings": 32768},
    ],
)
def test_refuses_a_sliding_window_that_hides_keys(window):
    with pytest.raises(InputError, match=r"^m/config.json: sliding_window: is \d+, shorter"):
        read(**window)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: is 'gpt2'; supported: qwen2, qwen3, llama, mistral"),
        ({"hidden_act": "gelu"}, "hidden_act: is 'gelu'; supported: silu"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias: is true; supported: false"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: is 3; it must divide .* \\(4\\)"),
        ({"num_key_value_heads": "absent"}, "num_key_value_heads: is missing"),
        ({"model_type": "qwen3"}, "head_dim: is missing"),
        ({"hidden_size": 62}, "hidden_size: is 62; a multiple of 4"),
        ({"hidden_size": 60}, "head_dim: is 15; rotary"),
        ({"vocab_size": 0}, "vocab_size: is 0; a number above 0"),
        ({"vocab_size": 1.5}, "vocab_size: is 1.5; a whole number"),
        ({"vocab_size": True}, "vocab_size: is True"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: is 'small'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: is 1; true or false"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.factor: is missing"),
        (
            {"rope_scaling": {**LLAMA3, "type": "yarn"}},
            "rope_scaling.type: and rope_type differ",
        ),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}},
            "rope_scaling: and rope_parameters say different things",
        ),
        ({"rope_scaling": {**LLAMA3, "beta_fast": 1}}, "beta_fast: is not a setting of rope_type"),
        ({"rope_theta": None}, "rope_theta: is null"),
        ({"rope_theta": 10**400}, "rope_theta: is 1000"),
        ({"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}}, "is 1.0; yarn needs"),
        ({"layer_types": ["full_attention"]}, "layer_types: names 1 layers, .* is 2"),
        ({"layer_types": ["full_attention", "conv"]}, "layer_types: holds 'conv'"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: names sliding layers, but use_sliding_window",
        ),
        ({"model_type": "llama", "use_sliding_window": True}, "use_sliding_window: asks for"),
        ({"model_type": "llama", "sliding_window": 8}, "sliding_window: is 8, shorter"),
        ({"attention_dropout": 0.1}, "attention_dropout: is 0.1; supported: 0; set it to 0"),
        ({"is_causal": None}, "is_causal: is null; supported: true"),
        ({"quantization_config": {"bits": 4}}, 'is {"bits": 4}; supported: null; dequantise'),
        ({"attention_bias": False}, "attention_bias: is false; a qwen2 model always has it true"),
        ({"architectures": ["Other"]}, "architectures: is \\['Other'\\]; supported: \\['Qwen2For"),
        ({"dtype": "int8"}, "dtype: is 'int8'; supported: float32, bfloat16"),
        ({"a_new_one": 0}, "a_new_one: is a field that Longrun does not know"),
        (
            {"rope_parameters": {"rope_type": "linear"}},
            "rope_parameters.rope_type: is 'linear'; supported: default, llama3",
        ),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_scaling.type: is 'dynamic'"),
        ({"rope_scaling": "llama3"}, "rope_scaling: is 'llama3'; an object"),
        ({"rope_parameters": {**LLAMA3, "factor": None}}, "rope_parameters.factor: is null"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4}}, "low_freq_factor: is 4"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: is not 1"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters.full_attention: differs between layers",
        ),
    ],
)
def test_refuses_by_name_what_the_decoder_does_not_compute(changes, message):
    with pytest.raises(InputError, match=f"^m/config.json: .*{message}"):
        read(**changes)


def test_is_read_without_torch():
    program = "import sys, longrun.nn.architecture; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
