import json
import os
import sys

import pytest

from longrun.config.evaluation import SandboxSettings
from longrun.evaluation.sandbox.isolation import WORKER, plan_launch

SETTINGS = SandboxSettings(timeout_seconds=3, memory_bytes=1 << 27, output_chars=50)


def words_after(command, word):
    return [command[index + 1] for index, each in enumerate(command) if each == word]


@pytest.fixture
def as_user(monkeypatch):
    return lambda uid: monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_an_ordinary_user_gets_a_user_namespace_with_one_process(as_user):
    as_user(1000)
    command = plan_launch(SETTINGS, "bwrap").command
    assert {"--unshare-user", "--as-pid-1", "--unshare-pid", "--unshare-net"} <= {*command}
    assert words_after(command, "--cap-drop") == ["ALL"]
    assert words_after(command, "--cap-add") == ["CAP_SYS_ADMIN"], "to bound the files"
    assert json.loads(command[-1])["uid"] is None


def test_root_really_becomes_somebody_else_and_keeps_only_what_that_takes(as_user):
    as_user(0)
    launches = [plan_launch(SETTINGS, "bwrap").command for _ in range(20)]
    assert words_after(launches[0], "--cap-add")[1:] == ["CAP_SETUID", "CAP_SETGID"]
    assert "--unshare-user" not in launches[0]
    uids = {json.loads(command[-1])["uid"] for command in launches}
    assert len(uids) > 10
    assert min(uids) >= 20_000


def test_nothing_of_the_host_can_be_written(as_user):
    as_user(1000)
    command = plan_launch(SETTINGS, "bwrap").command
    assert words_after(command, "--remount-ro") == ["/"]
    assert words_after(command, "--tmpfs") == ["/scratch"]
    assert not {"--bind", "--dev", "--share-net"} & {*command}
    assert {*words_after(command, "--dev-bind")} == {
        f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")
    }
    bound = words_after(command, "--ro-bind") + words_after(command, "--ro-bind-try")
    prefixes = (sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix))
    allowed = {"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", str(WORKER)}
    assert all(each in allowed | {*prefixes} or each.endswith("-packages") for each in bound)


@pytest.mark.parametrize("bubblewrap", ["bwrap", None])
def test_every_setting_reaches_the_worker(bubblewrap):
    limits = json.loads(plan_launch(SETTINGS, bubblewrap).command[-1])
    assert limits["timeout_seconds"] == 3
    assert limits["memory_bytes"] == 1 << 27
    assert limits["output_chars"] == 50
    assert limits["filter"]


def test_the_parents_environment_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("LONGRUN_TEST_SECRET", "hidden")
    for bubblewrap in ("bwrap", None):
        assert "LONGRUN_TEST_SECRET" not in plan_launch(SETTINGS, bubblewrap).environment
