"""Time of a step: the worked trace, what a layout divides and what it adds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.nn.costs import ModelShape, hardware_flops
from longrun.parallel.layouts import Layout
from longrun.plan.models import find_model
from longrun.plan.settings import Rates
from longrun.plan.time import Machine, Work, pointwise_bytes, unit_costs, weights_seconds

SHAPE = ModelShape.of(find_model("7b"))
MACHINE = Machine(rates=Rates().filled("h100"), node_size=8)
PLAIN = Work(recompute="none")
ONE = Layout()
PACK = 32768
LEVELS = ("none", "pointwise", "all_but_attention", "full")


def seconds(layout: Layout = ONE, work: Work = PLAIN, machine: Machine = MACHINE) -> float:
    """Return the seconds of a pack of one document."""
    unit = unit_costs(SHAPE, layout, work, machine)
    return PACK * unit.per_token + PACK**2 * unit.per_square


def test_the_worked_trace_of_the_docstring_holds():
    unit = unit_costs(SHAPE, ONE, PLAIN, MACHINE)
    pointwise = PACK * pointwise_bytes(SHAPE, PLAIN) / 2.9e12
    assert pointwise == pytest.approx(0.17, abs=0.005)
    assert PACK * unit.per_token - pointwise == pytest.approx(2.17, abs=0.005)
    assert PACK**2 * unit.per_square == pytest.approx(2.33, abs=0.005)
    assert seconds() == pytest.approx(4.67, abs=0.005)
    assert PACK / seconds() == pytest.approx(7020, abs=10)


@pytest.mark.parametrize("level", LEVELS)
def test_operations_are_those_of_the_hardware_formula(level):
    slow = dict.fromkeys(("matrix_tflops", "attention_forward_tflops"), 1.0)
    rates = Rates(**slow, attention_backward_tflops=1.0, memory_terabytes_per_second=1e9)
    machine = Machine(rates=rates.filled("h100"), node_size=8)
    found = seconds(work=replace(PLAIN, recompute=level), machine=machine)
    assert found == pytest.approx(PACK * hardware_flops(SHAPE, PACK, level) / 1e12)


def test_computing_more_again_takes_longer():
    times = [seconds(work=replace(PLAIN, recompute=level)) for level in LEVELS]
    assert times == sorted(times)


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8]))
def test_a_cut_pack_takes_its_share_and_the_talk_of_its_peers(tensor, context):
    layout = Layout(num_ranks=64, tensor=tensor, context=context)
    unit = unit_costs(SHAPE, layout, PLAIN, MACHINE)
    talk = PACK * unit.talking_per_token
    assert seconds(layout) == pytest.approx(seconds() / (tensor * context) + talk)
    assert (talk == 0) == (tensor == context == 1)


def test_context_peers_talk_far_less_than_tensor_peers():
    tensor, context = (
        unit_costs(SHAPE, layout, PLAIN, MACHINE).talking_per_token
        for layout in (Layout(num_ranks=8, tensor=4), Layout(num_ranks=8, context=4))
    )
    assert context < tensor / 4


def test_peers_of_another_machine_are_reached_over_the_network():
    near = Layout(num_ranks=16, context=8)
    far = Layout(num_ranks=16, context=16)
    talk = [unit_costs(SHAPE, one, PLAIN, MACHINE).talking_per_token for one in (near, far)]
    assert talk[1] > 7 * talk[0]


def test_collecting_inside_a_machine_is_bound_by_its_own_links_and_between_them_by_the_network():
    assert MACHINE.collect_seconds(8e9, 1, 1) == 0
    assert MACHINE.collect_seconds(8e9, 8, 1) == pytest.approx(8e9 * 7 / 8 / 350e9)
    # Two machines: eight ports of a machine together fetch the other half once.
    assert MACHINE.collect_seconds(8e9, 16, 1) == pytest.approx(
        max(8e9 * 15 / 16 / 350e9, 8e9 / 2 / 8 / 45e9)
    )
    assert MACHINE.collect_seconds(8e9, 2, 8) == pytest.approx(8e9 / 2 / 45e9)


def exposed(layout: Layout, micro_steps: int, compute_seconds: float) -> float:
    steps = {"micro_steps": micro_steps, "compute_seconds": compute_seconds}
    return weights_seconds(SHAPE, layout, PLAIN, MACHINE, **steps)


def test_full_sharding_gathers_in_every_micro_step_and_states_once_a_step():
    full, states = (Layout(num_ranks=64, sharding=kind) for kind in ("full", "states"))
    assert exposed(full, 4, 10.0) == pytest.approx(4 * exposed(full, 1, 10.0))
    assert exposed(states, 4, 10.0) == exposed(states, 1, 10.0) > 0


def test_fetching_hides_behind_computation_as_far_as_there_is_any():
    layout = Layout(num_ranks=64, sharding="full")
    assert exposed(layout, 1, 0.0) > exposed(layout, 1, 0.1) > exposed(layout, 1, 100.0) > 0


def test_alone_nothing_is_fetched():
    assert exposed(ONE, 4, 1.0) == 0
