"""Recipes run for real: every stage is a process of its own, as for a user."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longrun.config.cluster import Cluster
from longrun.config.recipe import Recipe, resolve
from longrun.errors import ConfigError, LaunchError
from longrun.launch.local import run_local, select_stages
from longrun.launch.local_jobs import Watcher
from longrun.launch.run_folder import job_folder, open_run, stage_rows

SMALL = {"num_cot": 20, "num_tir": 20, "num_genselect": 20, "num_held_out": 5}


def recipe(folder: Path, *overrides: str) -> Recipe:
    raw = {
        "name": "small",
        "output_dir": str(folder / "run"),
        "stages": {
            "problems": {"verb": "synthesize", **SMALL},
            "tokenizer": {"verb": "train_tokenizer", "data": "${problems}/train/*.jsonl"},
        },
    }
    return resolve(raw, list(overrides), "small.yaml")


class Events(list):
    def watcher(self) -> Watcher:
        return Watcher(
            begins=lambda stage: self.append(("begins", stage)),
            progresses=lambda stage, state: None,
            prints=lambda stage, line: self.append(("prints", line)),
            ends=lambda stage, outcome: self.append((outcome, stage)),
        )

    def outcomes(self) -> list[tuple[str, str]]:
        return [event for event in self if event[0] in ("done", "up to date")]


def run(loaded: Recipe, *, replace: bool = False) -> Events:
    events = Events()
    run_local(loaded, list(loaded.stages), events.watcher(), replace=replace)
    return events


def states(loaded: Recipe) -> dict[str, str]:
    return {row.name: row.state for row in stage_rows(loaded)}


def test_a_recipe_runs_in_order_and_does_nothing_the_second_time(tmp_path):
    assert states(recipe(tmp_path)) == {"problems": "waiting", "tokenizer": "waiting"}
    assert run(recipe(tmp_path)).outcomes() == [("done", "problems"), ("done", "tokenizer")]
    assert states(recipe(tmp_path)) == {"problems": "done", "tokenizer": "done"}
    assert run(recipe(tmp_path)).outcomes() == [
        ("up to date", "problems"),
        ("up to date", "tokenizer"),
    ]


def test_a_changed_setting_makes_a_stage_and_all_after_it_stale_until_replaced(tmp_path):
    run(recipe(tmp_path))
    changed = recipe(tmp_path, "problems.seed=1")
    assert states(changed) == {"problems": "stale", "tokenizer": "stale"}
    with pytest.raises(LaunchError, match=r"synthesize\.seed 0 -> 1"):
        run(changed)
    assert run(changed, replace=True).outcomes() == [("done", "problems"), ("done", "tokenizer")]


def test_a_failed_stage_names_its_reason_and_stops_what_follows(tmp_path):
    broken = recipe(tmp_path, "tokenizer.data=" + str(tmp_path / "none.jsonl"))
    with pytest.raises(LaunchError, match=r"tokenizer failed: .*none\.jsonl"):
        run(broken)
    assert states(broken) == {"problems": "done", "tokenizer": "failed"}
    assert (job_folder(broken, broken.stage("tokenizer")) / "exit").read_text() == "2\n"


def test_the_run_folder_alone_is_enough_to_see_and_repeat_the_run(tmp_path):
    run(recipe(tmp_path))
    again = open_run(tmp_path / "run")
    assert again.stages == recipe(tmp_path).stages
    assert run(again).outcomes() == [("up to date", "problems"), ("up to date", "tokenizer")]


def test_stages_are_selected_by_name(tmp_path):
    loaded = recipe(tmp_path)
    assert [s.name for s in select_stages(loaded, "tokenizer", None, None)] == ["tokenizer"]
    assert [s.name for s in select_stages(loaded, None, "tokenizer", None)] == ["tokenizer"]
    assert [s.name for s in select_stages(loaded, None, None, "problems")] == ["problems"]
    with pytest.raises(ConfigError, match="did you mean problems"):
        select_stages(loaded, "problem", None, None)


def test_interrupting_the_command_ends_its_stage_and_the_same_command_continues(tmp_path):
    loaded = recipe(tmp_path, "problems.num_cot=200000")
    run_recipe = (
        "import sys; from pathlib import Path; from longrun.launch.run_folder import open_run;"
        "from longrun.launch.local import *; r = open_run(Path(sys.argv[1]));"
        "q = lambda *a: None; run_local(r, list(r.stages), Watcher(q, q, q, q), replace=False)"
    )
    from longrun.launch.run_folder import save_recipe

    save_recipe(loaded)
    process = subprocess.Popen(
        [sys.executable, "-c", run_recipe, str(tmp_path / "run")], stderr=subprocess.PIPE, text=True
    )
    wait_until((tmp_path / "run/problems/started.json").exists)
    assert states(loaded)["problems"] == "running"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "problems interrupted; run the same command to continue" in errors
    assert states(loaded)["problems"] == "interrupted"
    small = recipe(tmp_path)
    run(small, replace=True)
    assert states(small) == {"problems": "done", "tokenizer": "done"}


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_nothing_of_a_stage_outlives_it(tmp_path):
    run(recipe(tmp_path))
    assert (tmp_path / "run/jobs/problems/log.txt").exists()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            assert str(tmp_path).encode() not in path.read_bytes()


def two_ways(folder: Path, *overrides: str) -> Recipe:
    """Two stages that do not wait for each other, and one that waits for the first."""
    raw = {
        "name": "ways",
        "output_dir": str(folder / "ways"),
        "stages": {
            "left": {"verb": "synthesize", **SMALL},
            "right": {"verb": "synthesize", **SMALL, "seed": 1},
            "after-left": {"verb": "train_tokenizer", "data": "${left}/train/*.jsonl"},
        },
    }
    return resolve(raw, list(overrides), "ways.yaml")


def run_on(loaded: Recipe, cores: int) -> Events:
    events = Events()
    cluster = Cluster(executor="local", cpus_per_node=cores)
    run_local(loaded, list(loaded.stages), events.watcher(), replace=False, cluster=cluster)
    return events


@pytest.mark.parametrize(("cores", "together"), [(1, False), (2, True)])
def test_stages_run_side_by_side_where_there_is_room(tmp_path, cores, together):
    events = run_on(two_ways(tmp_path), cores)
    begun = events[: events.index(("done", "left"))]
    assert (("begins", "right") in begun) == together
    assert events.index(("begins", "after-left")) > events.index(("done", "left"))


def test_a_failure_cancels_what_waits_for_it_and_nothing_else(tmp_path):
    broken = two_ways(tmp_path, "left.output_dir=/proc/no")
    with pytest.raises(LaunchError, match="left failed"):
        run_on(broken, 1)
    found = states(broken)
    assert found == {"left": "failed", "right": "done", "after-left": "cancelled"}
    whole = two_ways(tmp_path)
    assert run_on(whole, 1).outcomes() == [
        ("done", "left"),
        ("up to date", "right"),
        ("done", "after-left"),
    ]


def test_a_run_waits_for_an_experiment_of_another_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run_cmd", "--expname", "first", "touch started; sleep 3; touch finished"]
    other = subprocess.Popen([sys.executable, "-m", "longrun", *words])
    wait_until((tmp_path / "started").exists)
    loaded = resolve(
        {"name": "second", "stages": {"left": {"verb": "synthesize", **SMALL}}}, [], "second.yaml"
    )
    events = Events()
    run_local(loaded, list(loaded.stages), events.watcher(), replace=False, run_after=["first"])
    assert (tmp_path / "finished").exists()
    assert other.wait() == 0
    with pytest.raises(ConfigError, match=r"no experiment 'third' in runs; known: "):
        run_local(loaded, [], events.watcher(), replace=False, run_after=["third"])
