"""The cost model against the published sizes of Qwen2.5 and worked-out figures."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.nn.costs import (
    ATTENTION_RATE,
    ModelShape,
    Recompute,
    attention_cost,
    attention_flops,
    effective_length,
    hardware_flops,
    linear_flops,
    model_flops,
)

LEVELS: tuple[Recompute, ...] = ("none", "pointwise", "all_but_attention", "full")


def qwen(
    layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, vocab: int, tied: bool
) -> dict[str, Any]:
    """Return the fields of a Qwen2.5 ``config.json``."""
    return {
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    }


CONFIGS = {
    "1.5B": qwen(28, 1536, 8960, 12, 2, 151936, True),
    "7B": qwen(28, 3584, 18944, 28, 4, 152064, False),
    "14B": qwen(48, 5120, 13824, 40, 8, 152064, False),
    "32B": qwen(64, 5120, 27648, 40, 8, 152064, False),
}
SHAPES = {name: ModelShape.from_hf(config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize(
    ("name", "parameters", "layers", "output"),
    [
        ("1.5B", 1.544e9, 1.310e9, 0.233e9),
        ("7B", 7.616e9, 6.525e9, 0.545e9),
        ("14B", 14.770e9, 13.212e9, 0.779e9),
        ("32B", 32.764e9, 31.206e9, 0.779e9),
    ],
)
def test_parameters_are_those_that_the_models_are_published_with(
    name: str, parameters: float, layers: float, output: float
) -> None:
    shape = SHAPES[name]
    assert shape.parameters == pytest.approx(parameters, abs=0.5e6)
    assert shape.layer_matrices_parameters == pytest.approx(layers, abs=0.5e6)
    assert shape.output_parameters == pytest.approx(output, abs=0.6e6)


@pytest.mark.parametrize(
    ("name", "effective", "linear", "attention", "model", "hardware", "recomputed"),
    [
        ("1.5B", 7500, 9.26, 1.94, 11.2, 11.5, 14.8),
        ("1.5B", 11000, 9.26, 2.84, 12.1, 12.6, 16.1),
        ("1.5B", 32768, 9.26, 8.46, 17.7, 19.1, 24.6),
        ("7B", 7500, 42.4, 4.5, 46.9, 47.7, 62.3),
        ("7B", 11000, 42.4, 6.6, 49.0, 50.2, 65.4),
        ("7B", 32768, 42.4, 19.7, 62.2, 65.4, 85.1),
        ("14B", 7500, 83.9, 11.1, 95.0, 96.9, 127),
        ("14B", 11000, 83.9, 16.2, 100.2, 102.9, 135),
        ("14B", 32768, 83.9, 48.3, 132.3, 140.3, 183),
        ("32B", 7500, 191.9, 14.8, 206.7, 209, 276),
        ("32B", 11000, 191.9, 21.6, 213.5, 217, 287),
        ("32B", 32768, 191.9, 64.4, 256.3, 267, 351),
    ],
)
def test_operations_per_token_match_the_table_of_worked_figures(
    name: str,
    effective: float,
    linear: float,
    attention: float,
    model: float,
    hardware: float,
    recomputed: float,
) -> None:
    shape = SHAPES[name]
    tolerance = {"rel": 4e-3, "abs": 0.05}
    assert linear_flops(shape) / 1e9 == pytest.approx(linear, **tolerance)
    assert attention_flops(shape, effective) / 1e9 == pytest.approx(attention, **tolerance)
    assert model_flops(shape, effective) / 1e9 == pytest.approx(model, **tolerance)
    assert hardware_flops(shape, effective) / 1e9 == pytest.approx(hardware, **tolerance)
    assert hardware_flops(shape, effective, "full") / 1e9 == pytest.approx(recomputed, **tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_recomputing_more_computes_more(name: str) -> None:
    shape = SHAPES[name]
    work = [hardware_flops(shape, 7500, level) for level in LEVELS]
    assert work == sorted(work)


@pytest.mark.parametrize("name", SHAPES)
def test_the_share_of_attention_gives_the_time_of_a_document(name: str) -> None:
    shape, tokens = SHAPES[name], 7500
    extra = hardware_flops(shape, tokens) - linear_flops(shape)
    slowed = linear_flops(shape) + extra / ATTENTION_RATE
    assert 1 + attention_cost(shape) * tokens == pytest.approx(slowed / linear_flops(shape))


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=30))
def test_effective_length_lies_between_the_mean_and_the_longest(lengths: list[int]) -> None:
    effective = effective_length(lengths)
    assert sum(lengths) / len(lengths) <= effective * (1 + 1e-9)
    assert effective <= max(lengths) * (1 + 1e-9)


def test_effective_length_of_equal_documents_is_their_length_and_of_none_is_zero() -> None:
    assert effective_length([700] * 5) == 700
    assert effective_length([]) == 0


def test_a_configuration_without_a_size_is_refused_by_name() -> None:
    config = dict(CONFIGS["1.5B"])
    del config["intermediate_size"]
    with pytest.raises(InputError, match=r"models/a/config\.json: intermediate_size"):
        ModelShape.from_hf(config, "models/a/config.json")


def test_planning_never_imports_torch() -> None:
    code = (
        "import json, sys, longrun.plan.memory, longrun.nn.costs;"
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
