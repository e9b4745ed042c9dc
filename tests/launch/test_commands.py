"""Commands as jobs of this machine, and experiments by name."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from longrun import run_cmd, wrap_arguments
from longrun.config.cluster import Cluster
from longrun.errors import ConfigError, LaunchError
from longrun.launch.experiment import (
    find_experiment,
    jobs_before,
    locked,
    make_experiment,
    write_graph,
)
from longrun.launch.inspect_jobs import cancel_jobs, list_experiments, rows_of
from longrun.launch.jobs import is_running_here

HERE = Cluster(executor="local")


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGRUN_CLUSTER", raising=False)


def longrun(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "longrun", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_command_runs_to_its_end_here_and_is_found_by_name(tmp_path):
    first = run_cmd(wrap_arguments("echo one | tee out"), expname="first", log_dir="logs")
    assert first.state().state == "done"
    assert (tmp_path / "logs/first.log").read_text() == "one\n"
    second = run_cmd("cat out", expname="second", run_after="first")
    assert second.log() == "one\n"
    again = run_cmd("echo more >> out", expname="first")
    assert again.state().state == "done"
    assert (tmp_path / "out").read_text() == "one\nmore\n"


def test_a_command_has_one_before_and_one_after_it_and_takes_what_others_take(caplog, tmp_path):
    around = {"preprocess_cmd": "echo a > out; true", "postprocess_cmd": "echo c >> out"}
    others = {"time_min": "00:10:00", "reuse_code": False, "exclusive": True}
    with caplog.at_level("INFO"):
        run_cmd("echo b >> out", expname="around", **around, **others)
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"
    assert (
        "run_cmd: exclusive has no effect: `exclusive` of the cluster file says it" in caplog.text
    )
    assert "reuse_code" not in caplog.text
    with pytest.raises(LaunchError):
        run_cmd("false", expname="stops", postprocess_cmd="echo d >> out")
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"
    with pytest.raises(ConfigError, match="no such option time_max; did you mean --time_min"):
        run_cmd("true", time_max=3)


@pytest.mark.parametrize("words", [["--time_min=10", "--reuse-code"], ["--time-min", "10"]])
def test_options_of_all_commands_stand_before_the_command(words, tmp_path):
    (tmp_path / "c.yaml").write_text(f"executor: slurm\njob_dir: {tmp_path}/runs\n")
    command = ["run-cmd", "--cluster=./c.yaml", "--dry-run", *words, "echo", "--time_min=3"]
    done = longrun(*command)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --time-min=10" in done.stdout
    assert "echo --time_min=3" in done.stdout


def test_a_command_that_fails_says_its_last_line_and_stops_what_waits_for_it():
    with pytest.raises(LaunchError, match=r"bad failed: the reason \(log: .*log.txt\)"):
        run_cmd("echo the reason >&2; exit 3", expname="bad")
    with pytest.raises(LaunchError, match=r"run_after 'bad': its job bad is failed: the reason"):
        run_cmd("echo never", expname="child", run_after="bad")


def test_parts_run_side_by_side_and_failed_ones_alone_again(tmp_path):
    command = "echo $LONGRUN_PART/$LONGRUN_NUM_PARTS >> all; test $LONGRUN_PART != 2 -o -e ok"
    with pytest.raises(LaunchError, match="parts failed"):
        run_cmd(command, expname="parts", num_parts=3)
    (tmp_path / "ok").touch()
    assert run_cmd(command, expname="parts", num_parts=3).state().state == "done"
    lines = (tmp_path / "all").read_text().split()
    assert lines.count("1/3") == 1
    assert lines.count("2/3") == 2
    assert lines.count("3/3") == 1


def test_several_nodes_are_processes_of_this_machine():
    handle = run_cmd("echo $NODE_RANK of $NNODES", expname="nodes", num_nodes=3)
    assert sorted(handle.log().splitlines()) == ["0 of 3", "1 of 3", "2 of 3"]
    with pytest.raises(LaunchError, match="nodes failed"):
        run_cmd("exit $NODE_RANK", expname="nodes", num_nodes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_after": "nobody"}, r"no experiment 'nobody' in runs; known: first"),
        ({"run_after": "firts"}, r"no experiment 'firts' in runs; did you mean first\?"),
        ({"expname": "a/b"}, r"expname 'a/b': use up to 200 letters"),
        ({"expname": "self", "run_after": "self"}, r"cannot wait for itself"),
        ({"num_nodes": 0}, r"num_nodes: 0 is below 1"),
        ({"num_gpus": -1}, r"num_gpus: .* greater than or equal to 0"),
        ({"time_limit": "soon"}, r"time_limit: is not a time"),
        ({"container": "x"}, r"container_runtime: none"),
        ({"cluster": "nowhere"}, r"cluster 'nowhere': .*does not exist; .*longrun setup"),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_line(options, message):
    run_cmd("true", expname="first")
    with pytest.raises(ConfigError, match=message) as caught:
        run_cmd("true", **options)
    assert "\n" not in str(caught.value)


def test_options_of_a_cluster_say_once_that_they_do_nothing_here():
    done = longrun("run_cmd", "--expname=x", "--partition=gpu", "--time_limit=1h", "echo hi")
    assert done.returncode == 0, done.stderr
    for name in ("partition", "time_limit"):
        assert done.stderr.count(f"{name} has no effect here") == 1


def test_an_unknown_option_does_not_become_a_part_of_the_command():
    done = longrun("run_cmd", "--expnme=x", "echo hi")
    assert done.returncode == 2
    assert "no such option --expnme; did you mean --expname?" in done.stderr
    done = longrun("run_cmd", "--expname=x", "echo", "hi", "--loud", "> out")
    assert done.returncode == 0, done.stderr
    assert Path("out").read_text() == "hi --loud\n"


def test_a_dry_run_prints_the_scripts_and_writes_nothing():
    Path("cluster_configs").mkdir()
    text = yaml.safe_dump({"executor": "slurm", "job_dir": str(Path.cwd() / "runs")})
    Path("cluster_configs/big.yaml").write_text(text)
    done = longrun("run_cmd", "--cluster", "big", "--dry-run", "echo hi")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --job-name=script" in done.stdout
    assert "\necho hi\n" in done.stdout
    assert not Path("runs").exists()


def test_setup_writes_a_file_from_settings_or_answers(tmp_path):
    words = ("executor=slurm", f"job_dir={tmp_path}/runs", "time_limits={gpu: 4h}")
    assert longrun("setup", "big", *words).returncode == 0
    refused = longrun("setup", "big", *words)
    assert "exists; edit it, or write it anew with --replace" in refused.stderr
    assert "did you mean partition?" in longrun("setup", "x", *words, "partitoin=a").stderr
    assert not Path("cluster_configs/x.yaml").exists()
    answers = f"slurm\n{tmp_path}/runs\n\ngpu\n\n\n8\npyxis\n/images/a.sqsh\n[/data]\n"
    assert longrun("setup", "asked", input=answers).returncode == 0
    assert yaml.safe_load(Path("cluster_configs/asked.yaml").read_text()) == {
        "executor": "slurm",
        "job_dir": f"{tmp_path}/runs",
        "partition": "gpu",
        "gpus_per_node": 8,
        "container_runtime": "pyxis",
        "container": "/images/a.sqsh",
        "mounts": ["/data"],
    }


def test_two_shells_cannot_work_on_one_experiment(tmp_path):
    experiment = make_experiment(tmp_path / "runs", "mine")
    with (
        locked(experiment),
        pytest.raises(
            LaunchError, match=rf"another command is at work on it \(process {os.getpid()}"
        ),
    ):
        run_cmd("true", expname="mine")


def test_a_name_belongs_to_one_folder(tmp_path):
    made = make_experiment(tmp_path / "runs", "name", tmp_path / "elsewhere")
    write_graph(made, HERE, {})
    assert find_experiment(tmp_path / "runs", "name").folder == tmp_path / "elsewhere"
    with pytest.raises(ConfigError, match=r"expname 'name' belongs to .*elsewhere"):
        make_experiment(tmp_path / "runs", "name", tmp_path / "other")


def test_only_the_last_jobs_of_an_experiment_are_waited_for(tmp_path):
    made = make_experiment(tmp_path / "runs", "graph")
    folders = {name: made.job_folder(name) for name in "abc"}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "job.sh").touch()
    write_graph(made, HERE, {"a": [], "b": [folders["a"]], "c": [folders["a"]]})
    before = jobs_before(tmp_path / "runs", ["graph"], "other")
    assert before == [folders["b"], folders["c"]]


def test_thousands_of_experiments_are_listed_in_a_moment(tmp_path):
    runs = tmp_path / "runs"
    for index in range(3000):
        folder = runs / f"old-{index}"
        (folder / "jobs/a").mkdir(parents=True)
        (folder / "jobs/a/exit").write_text("0\n")
        text = '{"name": "x", "cluster": "c", "executor": "slurm", "started": 0, "jobs": {"a": []}}'
        (folder / "graph.json").write_text(text)
    began = time.process_time()
    rows, total, silent = list_experiments(runs, 30)
    assert time.process_time() - began < 0.5
    assert (len(rows), total, silent) == (30, 3000, "")
    began = time.process_time()
    assert len(list_experiments(runs, None)[0]) == 3000
    assert time.process_time() - began < 3.0
    assert rows[0].counts == {"done": 1}


def test_cancel_ends_a_command_of_another_shell_and_the_same_command_goes_on(tmp_path):
    command = "test -e second || { touch second; sleep 100; }"
    words = [sys.executable, "-m", "longrun", "run_cmd", "--expname", "long", command]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (tmp_path / "second").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert cancel_jobs(tmp_path / "runs", "long", None) == ["long"]
    assert "long interrupted; run the same command to continue" in process.communicate()[1]
    rows, _ = rows_of(tmp_path / "runs/long")
    assert [row.state for row in rows] == ["cancelled"]
    assert run_cmd(command, expname="long").state().state == "done"


@pytest.mark.parametrize("end", [signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_cancel_ends_what_a_closed_terminal_or_a_killed_command_line_left(tmp_path, end):
    command = "test -e second && exit; touch second; sleep 100 & wait; sleep 100"
    words = [sys.executable, "-m", "longrun", "run_cmd", "--expname", "left", command]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "second").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(end)
    process.communicate()
    place, job = tmp_path / "runs", tmp_path / "runs/left/jobs/left"
    assert is_running_here(job) == (end == signal.SIGKILL)
    assert cancel_jobs(place, "left", None) == (["left"] if end == signal.SIGKILL else [])
    assert not is_running_here(job)
    state = "cancelled" if end == signal.SIGKILL else "interrupted"
    assert rows_of(place / "left")[0][0].state == state
    assert run_cmd(command, expname="left").state().state == "done"


def test_a_killed_command_line_leaves_a_job_that_is_seen_and_not_doubled(tmp_path):
    words = [sys.executable, "-m", "longrun", "run_cmd", "--expname", "kept", "touch on; sleep 4"]
    process = subprocess.Popen(words)
    end = time.monotonic() + 60
    while not (tmp_path / "on").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows, _ = rows_of(tmp_path / "runs/kept")
    assert [row.state for row in rows] == ["running"]
    with pytest.raises(LaunchError, match="experiment kept is running"):
        run_cmd("echo", expname="kept")
    while rows_of(tmp_path / "runs/kept")[0][0].state == "running":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert rows_of(tmp_path / "runs/kept")[0][0].state == "done"


def test_after_cancel_what_ran_and_what_waited_is_cancelled_and_runs_again(tmp_path):
    data = {"verb": "synthesize", "num_cot": 5, "num_tir": 5, "num_genselect": 5, "num_held_out": 2}
    stages = {
        "problems": {**data, "num_cot": 500_000},
        "tokenizer": {"verb": "train_tokenizer", "data": "${problems}/train/*.jsonl"},
    }
    (tmp_path / "two.yaml").write_text(json.dumps({"name": "two", "stages": stages}))
    command = [sys.executable, "-m", "longrun", "run", "two.yaml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 60
    while not (tmp_path / "runs/two/problems/started.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert cancel_jobs(tmp_path / "runs", "two", None) == ["problems", "tokenizer"]
    process.communicate()
    assert [row.state for row in rows_of(tmp_path / "runs/two")[0]] == ["cancelled", "cancelled"]


def test_a_call_from_python_shows_what_its_work_prints(tmp_path, capfd):
    run_cmd("echo shown", expname="talks")
    out, error = capfd.readouterr()
    assert (out, error) == ("", "shown\n")
