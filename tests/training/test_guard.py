import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.training import GuardSettings
from longrun.training.guard import Guard

SPIKES = {"spike_factor": 2.0, "spike_window": 3}


def run(guard: Guard, losses) -> list[str]:
    """What is done about each loss."""
    actions = []
    for loss in losses:
        fault = guard.judge(loss, 1.0)
        action = "take" if fault is None else fault.action
        guard.remember(loss, taken=action in ("take", "log"))
        actions.append(action)
    return actions


@pytest.mark.parametrize("numbers", [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_numbers_that_are_not_finite_are_a_fault(numbers, action):
    fault = Guard(GuardSettings(non_finite=action), [], 0).judge(*numbers)
    assert fault.action == action
    assert f"loss {numbers[0]} and gradient norm {numbers[1]}" in fault.reason


@pytest.mark.parametrize("action", ["stop", "skip", "log"])
def test_a_loss_far_above_the_median_of_the_window_is_a_spike(action):
    guard = Guard(GuardSettings(**SPIKES, on_spike=action), [], 0)
    assert run(guard, [2.0, 1.8, 1.9, 1.7]) == ["take"] * 4
    assert guard.judge(3.6, 1.0) is None
    fault = guard.judge(3.7, 1.0)
    assert fault.action == action
    assert fault.reason == "loss 3.7 is above 2 times 1.8, the median of the last 3 steps"


def test_there_is_no_spike_before_the_window_is_full_nor_without_the_rule():
    assert run(Guard(GuardSettings(**SPIKES, on_spike="stop"), [], 0), [1, 9, 1]) == ["take"] * 3
    assert run(Guard(GuardSettings(), [], 0), [1.0] * 60 + [99.0]) == ["take"] * 61


def test_a_skipped_loss_is_not_remembered_but_one_that_was_logged_is():
    losses = [1.0, 1.0, 1.0, 5.0, 5.0, 1.0]
    skipping = Guard(GuardSettings(**SPIKES, on_spike="skip"), [], 0)
    assert run(skipping, losses) == ["take"] * 3 + ["skip"] * 2 + ["take"]
    logging = Guard(GuardSettings(**SPIKES, on_spike="log"), [], 0)
    assert run(logging, losses) == ["take"] * 3 + ["log"] * 2 + ["take"]
    assert logging.recent_losses == [5.0, 5.0, 1.0]


def test_too_many_skips_in_a_row_stop():
    guard = Guard(GuardSettings(non_finite="skip", max_skips=2), [], 0)
    nan = math.nan
    assert run(guard, [nan, nan, 1.0, nan, nan]) == ["skip", "skip", "take", "skip", "skip"]
    assert guard.judge(nan, 1.0).action == "stop"
    assert "after 2 skipped steps in a row (train.guard.max_skips)" in guard.judge(nan, 1.0).reason


@given(st.lists(st.floats(0.1, 9)), st.integers(0, 20))
def test_going_on_from_what_is_remembered_changes_nothing(losses, cut):
    settings = GuardSettings(**SPIKES, on_spike="skip", max_skips=2)
    through, first = Guard(settings, [], 0), Guard(settings, [], 0)
    expected = run(through, losses)
    actions = run(first, losses[:cut])
    second = Guard(settings, first.recent_losses, first.skips)
    assert actions + run(second, losses[cut:]) == expected
