import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.training import OptimizerSettings
from longrun.errors import ConfigError
from longrun.optim.schedules import Constant, WarmupCosine, WarmupLinear, build_schedule

# Step -> rate of a cosine schedule with peak 3e-4, floor 3e-7, 3000 steps of warm-up, 30000 steps.
PUBLISHED = {
    0: 9.99666777740753e-08,
    1: 1.999333555481506e-07,
    1499: 0.00014995001666111296,
    3000: 0.0003,
    3001: 0.00029999999898562394,
    7500: 0.0002799239067570981,
    16500: 0.00015015,
    22500: 5.382827668847207e-05,
    29999: 3.0000101437601287e-07,
    30000: 3e-07,
    30001: 3e-07,
}


@pytest.mark.parametrize(("step", "rate"), PUBLISHED.items())
def test_cosine_gives_the_published_rates(step, rate):
    settings = OptimizerSettings(lr=3e-4, min_lr=3e-7, warmup_steps=3000, schedule="cosine")
    schedule = build_schedule(settings, 30000)
    assert schedule(step) == pytest.approx(rate, rel=1e-9, abs=0)


@given(st.sampled_from([WarmupCosine, WarmupLinear]), st.integers(0, 30), st.integers(1, 60))
def test_rises_to_the_peak_then_never_rises_again(kind, warmup, fall):
    schedule = kind(peak_lr=1.0, min_lr=0.25, warmup_steps=warmup, max_steps=warmup + fall)
    rates = [schedule(step) for step in range(warmup + fall + 5)]
    assert rates[warmup] == max(rates) == 1.0
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup + fall :] == [0.25] * 5


def test_linear_falls_on_a_line():
    schedule = WarmupLinear(peak_lr=1.0, min_lr=0.2, warmup_steps=0, max_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_constant_climbs_and_stays():
    schedule = Constant(peak_lr=3.0, warmup_steps=2)
    assert [schedule(step) for step in (0, 1, 2, 3, 10**6)] == [1.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_settings_choose_the_schedule(name):
    settings = OptimizerSettings(lr=0.1, min_lr=0.01, schedule=name, warmup_steps=1)
    schedule = build_schedule(settings, 5)
    middle = {"cosine": 0.01 + 0.09 * (1 + math.cos(math.pi / 2)) / 2, "linear": 0.055}
    assert schedule(3) == pytest.approx(middle.get(name, 0.1))


def test_a_climb_as_long_as_the_training_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps: 5 is not below the 5 steps"):
        build_schedule(OptimizerSettings(warmup_steps=5), 5)
