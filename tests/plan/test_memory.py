"""Memory of a step: states by recipe, what sharding divides, what recomputation trades."""

from dataclasses import replace
from typing import Any

import pytest

from longrun.nn.costs import ModelShape
from longrun.plan.memory import StepSettings, optimizer_bytes, step_memory

GIB = 2**30
SETTINGS = StepSettings(pack_tokens=32768)


def shape(layers: int, hidden: int, ffn: int, heads: int, kv: int, tied: bool) -> ModelShape:
    """Return the shape of a Qwen2.5 model."""
    config: dict[str, Any] = {
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": 151936 if tied else 152064,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    }
    return ModelShape.from_hf(config)


SHAPES = {
    "1.5B": shape(28, 1536, 8960, 12, 2, True),
    "7B": shape(28, 3584, 18944, 28, 4, False),
    "14B": shape(48, 5120, 13824, 40, 8, False),
    "32B": shape(64, 5120, 27648, 40, 8, False),
}


@pytest.mark.parametrize(
    ("name", "states"), [("1.5B", 23.0), ("7B", 113.5), ("14B", 220), ("32B", 488)]
)
def test_float32_states_take_sixteen_bytes_per_parameter(name: str, states: float) -> None:
    memory = step_memory(SHAPES[name], SETTINGS)
    assert memory.states_bytes == 16 * SHAPES[name].parameters
    assert memory.states_bytes / GIB == pytest.approx(states, rel=2e-3)


def test_full_sharding_divides_the_states_and_adds_whole_layers() -> None:
    whole = step_memory(SHAPES["7B"], SETTINGS)
    part = step_memory(SHAPES["7B"], replace(SETTINGS, num_processes=8, sharding="full"))
    assert part.states_bytes == pytest.approx(whole.states_bytes / 8, abs=32)
    assert 0 < part.gathered_bytes < whole.gathered_bytes
    assert part.activations_bytes == whole.activations_bytes


def test_replicas_hold_everything_however_many_they_are() -> None:
    assert step_memory(SHAPES["7B"], replace(SETTINGS, num_processes=8)) == step_memory(
        SHAPES["7B"], SETTINGS
    )


def test_recomputation_keeps_the_layer_inputs_and_one_whole_layer() -> None:
    memory = step_memory(SHAPES["1.5B"], replace(SETTINGS, recompute="full"))
    assert memory.activations_bytes / GIB == pytest.approx(2.6, abs=0.05)
    assert memory.recomputed_bytes / GIB == pytest.approx(2.2, abs=0.05)
    assert memory.total_bytes < step_memory(SHAPES["1.5B"], SETTINGS).total_bytes


def test_muon_keeps_one_state_for_hidden_matrices_and_two_for_the_rest() -> None:
    model = SHAPES["1.5B"]
    saved = optimizer_bytes(model, "adamw") - optimizer_bytes(model, "muon")
    assert saved == 4 * model.layer_matrices_parameters


def test_float32_computation_needs_no_casts_of_the_weights() -> None:
    assert step_memory(SHAPES["1.5B"], replace(SETTINGS, compute_bytes=4)).gathered_bytes == 0
