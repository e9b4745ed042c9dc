"""A contest keeps what was measured, whatever becomes of a contender."""

import json
import sys
import time
from pathlib import Path

import pytest

import contest

WRITE = "import json,sys; json.dump({}, open(sys.argv[1], 'w'))"


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run(tmp_path, code, **options):
    result = tmp_path / "result.json"
    command = [sys.executable, "-c", code, str(result)]
    return contest.run("name", command, result, **{"cap_seconds": 30, **options})


def test_reads_what_a_contender_wrote(tmp_path):
    outcome = run(tmp_path, WRITE.format("{'speed': 3}"))
    assert (outcome.status, outcome.measured) == ("ok", {"speed": 3})


def test_keeps_the_last_output_of_one_that_fails(tmp_path):
    outcome = run(tmp_path, "raise SystemExit('no memory for 32k')")
    assert outcome.status == "failed"
    assert "no memory for 32k" in outcome.problem


def test_one_that_measures_nothing_has_failed(tmp_path):
    assert run(tmp_path, "pass").status == "failed"


def test_an_older_result_is_not_taken_for_a_new_one(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"speed": 9}))
    assert run(tmp_path, "pass").measured == {}


def test_ends_one_that_takes_too_long_and_all_it_started(tmp_path):
    code = (
        "import pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid));"
        "time.sleep(60)"
    )
    outcome = run(tmp_path, code, cap_seconds=3)
    assert outcome.status == "timed out"
    assert outcome.seconds < 20
    child = (tmp_path / "child").read_text()
    deadline = time.monotonic() + 20
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_says_why_one_was_left_out(tmp_path):
    outcome = run(tmp_path, WRITE.format("{'left_out': 'trl is not installed'}"))
    assert (outcome.status, outcome.problem) == ("left out", "trl is not installed")
    assert contest.missing(["json", "no_such_package", "x"]) == "no_such_package"
    assert contest.missing(["no_such_package.module"]) == "no_such_package.module"
    assert contest.missing(["json"]) is None


def test_hands_over_the_environment(tmp_path):
    code = WRITE.format("{'value': __import__('os').environ['SETTING']}")
    assert run(tmp_path, code, environment={"SETTING": "7"}).measured == {"value": "7"}


@pytest.mark.parametrize(("cell", "padded"), [("7", "    7"), ("name", "name ")])
def test_numbers_stand_to_the_right(cell, padded):
    assert f"| {padded} |" in contest.table(["12345"], [[cell]])
