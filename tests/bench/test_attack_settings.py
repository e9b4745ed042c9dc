"""Odd settings, recipes, cluster files and command lines end with exit code 0 or 2, never more."""

import random

import pytest

from attack.settings import attack

SECONDS = 8


@pytest.mark.parametrize("seed", [1, None], ids=["fixed", "fresh"])
def test_no_odd_setting_is_a_traceback_or_a_hang(seed, monkeypatch):
    for name in ("LONGRUN_CLUSTER", "LONGRUN_CLUSTER_CONFIGS"):
        monkeypatch.delenv(name, raising=False)
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    outcomes, faults = attack(seed, 1000, SECONDS)
    assert not faults, f"python bench/attack/settings.py --seed {seed}\n" + "\n".join(faults[:3])
    assert sum(outcomes.values()) > 20
