"""Memory of a step: states by recipe, what a layout divides, and the engine itself as the judge."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.nn.costs import ModelShape
from longrun.parallel.layouts import Layout, obstacle
from longrun.plan.memory import StepSettings, optimizer_bytes, step_memory
from longrun.plan.models import find_model

BENCH = Path(__file__).parents[2] / "bench"
GIB = 2**30
SETTINGS = StepSettings(pack_tokens=32768)
ARCHES = {name: find_model(name) for name in ("1.5b", "7b", "14b", "32b")}
SHAPES = {name: ModelShape.of(arch) for name, arch in ARCHES.items()}
ONE = Layout()


def run_bench(script: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "states"), [("1.5b", 23.0), ("7b", 113.5), ("14b", 220), ("32b", 488)]
)
def test_float32_states_take_sixteen_bytes_per_parameter(name, states):
    memory = step_memory(SHAPES[name], ONE, SETTINGS)
    assert memory.states_bytes == 16 * SHAPES[name].parameters
    assert memory.states_bytes / GIB == pytest.approx(states, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.5b", (62.6, 42.0, 5.3, 2.6)),
        ("7b", (135.7, 91.1, 12.3, 6.1)),
        ("14b", (217.7, 147.2, 30.2, 15.0)),
        ("32b", (452, 304, 40, 20)),
    ],
)
def test_activations_of_a_compiled_pack_match_the_table_of_worked_figures(name, expected):
    levels = ("none", "pointwise", "all_but_attention", "full")
    found = [
        step_memory(SHAPES[name], ONE, replace(SETTINGS, recompute=level)).activations_bytes / GIB
        for level in levels
    ]
    assert found == pytest.approx(expected, rel=0.02, abs=0.1)


def test_the_worked_trace_of_the_docstring_holds():
    memory = step_memory(SHAPES["7b"], ONE, replace(SETTINGS, micro_steps=1))
    parts = (
        memory.weights_bytes,
        memory.gradients_bytes,
        memory.optimizer_bytes,
        memory.gathered_bytes,
        memory.activations_bytes,
        memory.work_bytes,
    )
    found = [part / GIB for part in parts]
    assert found == pytest.approx([28.4, 28.4, 56.7, 12.2, 135.7, 5.6], abs=0.06)
    assert (memory.total_bytes - memory.runtime_bytes) / GIB == pytest.approx(266.9, abs=0.06)
    assert memory.moment == "loss"


def test_full_sharding_divides_the_states_and_gathers_few_layers():
    whole = step_memory(SHAPES["7b"], ONE, SETTINGS)
    part = step_memory(SHAPES["7b"], Layout(num_ranks=8, sharding="full"), SETTINGS)
    assert part.states_bytes == pytest.approx(whole.states_bytes / 8, abs=32)
    assert 0 < part.gathered_bytes < whole.gathered_bytes
    assert part.activations_bytes == whole.activations_bytes


def test_sharded_states_add_whole_gradients_up_when_there_is_more_than_one_micro_step():
    layout = Layout(num_ranks=8, sharding="states")
    one, two = (
        step_memory(SHAPES["7b"], layout, replace(SETTINGS, micro_steps=steps)) for steps in (1, 2)
    )
    assert one.gradients_bytes == one.weights_bytes
    assert two.gradients_bytes == 8 * two.weights_bytes == 4 * SHAPES["7b"].parameters


def test_replicas_hold_everything_however_many_they_are():
    assert step_memory(SHAPES["7b"], Layout(num_ranks=8), SETTINGS) == step_memory(
        SHAPES["7b"], ONE, SETTINGS
    )


def test_muon_keeps_one_state_for_hidden_matrices_and_two_for_the_rest():
    model = SHAPES["1.5b"]
    saved = optimizer_bytes(model, "adamw") - optimizer_bytes(model, "muon")
    assert saved == 4 * model.layer_matrices_parameters


def test_compact_moments_take_four_and_about_two_bytes_of_a_matrix():
    model = SHAPES["7b"]
    assert optimizer_bytes(model, states="bfloat16") / model.parameters == pytest.approx(4, 1e-3)
    assert optimizer_bytes(model, states="int8") / model.parameters == pytest.approx(2.125, 1e-3)


def test_float32_computation_and_split_weights_need_no_casts():
    for settings in (replace(SETTINGS, compute_bytes=4), replace(SETTINGS, weights="split")):
        assert step_memory(SHAPES["1.5b"], ONE, settings).gathered_bytes == 0


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Layout, StepSettings]:
    name = draw(st.sampled_from(sorted(ARCHES)))
    layout = Layout(
        num_ranks=512,
        tensor=draw(st.sampled_from([1, 2, 4, 8])),
        context=draw(st.sampled_from([1, 2, 4, 8])),
        sharding=draw(st.sampled_from(["replicate", "states", "full"])),
    )
    settings = replace(
        SETTINGS,
        recompute=draw(st.sampled_from(["none", "pointwise", "all_but_attention", "full"])),
        compiled=draw(st.booleans()),
        compute_bytes=draw(st.sampled_from([2, 4])),
    )
    return name, layout, settings


@given(cases())
def test_more_tokens_take_more_and_more_sharding_takes_less(case):
    name, layout, settings = case
    if obstacle(layout, ARCHES[name]) is not None:
        return
    shape = SHAPES[name]
    memory = step_memory(shape, layout, settings)
    longer = step_memory(shape, layout, replace(settings, pack_tokens=65536))
    assert longer.total_bytes > memory.total_bytes
    if layout.sharding == "full":
        states = step_memory(shape, replace(layout, sharding="states"), settings)
        assert memory.total_bytes < states.total_bytes


@given(cases())
def test_computing_more_again_keeps_less(case):
    name, layout, settings = case
    if obstacle(layout, ARCHES[name]) is not None:
        return
    # With cut matrices ``pointwise`` keeps what came from peers, which can be more than it saves.
    levels = ["none", "pointwise", "all_but_attention", "full"]
    if layout.tensor > 1:
        levels.remove("pointwise")
    kept = [
        step_memory(SHAPES[name], layout, replace(settings, recompute=level)).activations_bytes
        for level in levels
    ]
    assert kept == sorted(kept, reverse=True)


FAKE = [
    "model=7b layers=3 ranks=64 tensor=4 context=2 sharding=full recompute=full",
    "model=32b layers=2 ranks=512 tensor=8 context=4 sharding=states",
]


@pytest.mark.timeout(300)  # torch starts and thinks about a model of 32 G parameters
@pytest.mark.parametrize("arguments", FAKE)
def test_the_model_agrees_with_the_engine_on_tensors_without_data(arguments):
    found = run_bench("fake_memory.py", *arguments.split())
    # Two layers, to be quick: the layer fetched ahead, always counted, is not always there.
    assert found["modelled_over_simulated"] == pytest.approx(1, abs=0.1)


@pytest.mark.timeout(300)  # a real training, and a busy machine
def test_the_model_agrees_with_the_resident_memory_of_real_steps():
    sizes = "layers=2 hidden=256 intermediate=1280 heads=4 vocab_size=4096 pack_size=2048"
    found = run_bench("real_memory.py", *sizes.split(), "dtype=float32", "chunk_tokens=256")
    assert found["modelled_over_measured"] == pytest.approx(1, abs=0.1)
