"""The hostile programs of ``hostile.py``, in both modes, as root and as an ordinary user."""

import importlib.util
import os
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("attack", Path(__file__).with_name("attack.py"))
attack = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(attack)

USERS = {"this user": os.geteuid(), "an ordinary user": attack.ORDINARY_USER}


@pytest.mark.timeout(290)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("mode", ["bubblewrap", "process"])
def test_nothing_escapes_stalls_or_outlives_the_sandbox(mode, user):
    outcome = attack.run_as(USERS[user], mode)
    if "cannot" in outcome:
        pytest.skip(f"{mode} as {user}: {outcome['cannot']}")
    assert outcome["failed"] == {}
    assert len(outcome["held"]) >= 190, "the modes promise different things"
