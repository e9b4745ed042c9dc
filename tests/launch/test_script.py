"""The text of job scripts is a promise to people who read, keep and submit them by hand."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.config.cluster import Cluster
from longrun.launch.jobs import Job, Resources
from longrun.launch.script import (
    CONTINUED,
    log_pattern,
    render_command,
    render_job,
    write_scripts,
)

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path("/runs/tiny/jobs")
SLURM = {"executor": "slurm", "job_dir": "/runs", "python": "python3"}
SURROUNDING_JOB = {
    "SLURM_JOB_ID": "99",
    "SLURM_ARRAY_JOB_ID": "98",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "2",
    "RANK": "1",
    "NNODES": "4",
    "LONGRUN_PART": "7",
}


def job(**changes) -> Job:
    values = {
        "name": "train",
        "folder": FOLDER / "train",
        "command": "exec python3 -m longrun train /runs/tiny/jobs/train/config.yaml",
        "start_in": Path("/home/me"),
        **changes,
    }
    return Job(**values)


CASES = {
    "training": (
        {
            **SLURM,
            "account": "research",
            "job_name_prefix": "lr-",
            "time_limits": {"batch": "3d"},
            "required_env": ["HF_TOKEN"],
            "env": {"HF_HOME": "/data/hf home"},
            "sbatch": ["--qos=high"],
            "exclusive": True,
        },
        job(
            after=(FOLDER / "pack", FOLDER / "base"),
            resources=Resources(num_nodes=2, num_gpus=8, cpus=64, partition="batch"),
            resumable=True,
            env={"PYTHONPATH": "/runs/code/0123"},
        ),
    ),
    "chain": (
        {**SLURM, "requeue": False},
        job(resumable=True, resources=Resources(time_limit=300)),
    ),
    "array": (
        {**SLURM, "max_array_tasks": 4},
        job(name="prepare", folder=FOLDER / "prepare", command="echo $LONGRUN_PART", num_parts=10),
    ),
    "pyxis": (
        {**SLURM, "container_runtime": "pyxis", "mounts": ["/data:/workspace", "/models:/m:ro"]},
        job(image="nvcr.io#nvidia/pytorch:24.07-py3", start_in=Path("/workspace")),
    ),
    "apptainer": (
        {**SLURM, "container_runtime": "apptainer", "mounts": ["/data:/workspace"]},
        job(image="/images/a b.sif", resources=Resources(num_gpus=1)),
    ),
    "local": ({"executor": "local"}, job()),
    "local-nodes": (
        {"executor": "local", "python": "python3"},
        job(resources=Resources(num_nodes=2), resumable=True),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_scripts_are_the_golden_ones(name):
    values, wanted = CASES[name]
    text = render_job(Cluster.parse(values, name), wanted, "tiny")
    text += "--- command.sh\n" + render_command(wanted)
    assert text == (GOLDEN / f"{name}.sh").read_text(), "read the difference, then write it anew"


@pytest.mark.parametrize("name", CASES)
def test_the_scripts_are_valid_bash(name, tmp_path):
    values, wanted = CASES[name]
    path = tmp_path / "job.sh"
    path.write_text(render_job(Cluster.parse(values, name), wanted, "tiny"))
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize(("limit", "seconds"), [(None, 300), (86400, 300), (400, 100), (60, 15)])
def test_the_warning_leaves_most_of_a_short_limit_for_work(limit, seconds):
    wanted = job(resumable=True, resources=Resources(time_limit=limit))
    text = render_job(Cluster.parse(SLURM, "x"), wanted, "tiny")
    assert f"#SBATCH --signal=B:USR1@{seconds}\n" in text


@pytest.mark.parametrize("name", CASES)
def test_shellcheck_finds_nothing_in_the_scripts(name, tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("NO SHELLCHECK: it is not installed; apt-get install shellcheck")
    values, wanted = CASES[name]
    (tmp_path / "job.sh").write_text(render_job(Cluster.parse(values, name), wanted, "tiny"))
    (tmp_path / "command.sh").write_text(render_command(replace(wanted, command="true")))
    # Not seen by it: functions that traps call, what they set, and a list of one name.
    left_out = "--exclude=SC2317,SC2034,SC2043"
    command = ["shellcheck", left_out, tmp_path / "job.sh", tmp_path / "command.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=30)
SIGNS = st.text("ab \\'\"$`%#!*?[]{}()<>|&;~^=,:\u00e9\u4e00", max_size=30)
NAMES = st.one_of(LINES, SIGNS).map(lambda text: text.replace("/", "_").strip(". "))


@settings(max_examples=25)
@given(st.one_of(SIGNS, st.text(st.characters(codec="utf-8", exclude_characters="\0"))), NAMES)
def test_bash_reads_every_value_and_path_as_it_was_written(value, name):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / f"x{name[:30]}"
        own = {"folder": value, "job": value, "code": value, "WORDS": value}
        command = 'printf "%s\\0" "$folder" "$job" "$code" "$WORDS" "$PWD" "$LONGRUN_FOLDER" > out'
        assert run_script(folder, command, variables=own) == 0
        read = (folder / "out").read_bytes().decode().split("\0")
        assert read == [value, value, value, value, str(folder), str(folder), ""]


@given(LINES, SIGNS)
def test_comments_hold_nothing_of_the_user_and_directives_are_one_line(line, signs):
    text = render_job(
        Cluster.parse({**SLURM, "job_name_prefix": line, "account": signs or "a"}, "x"),
        job(folder=Path(f"/runs/{signs.replace('/', '_')}")),
        "tiny",
    )
    comments = [row for row in text.splitlines() if row.startswith("# ")]
    plain = render_job(Cluster.parse(SLURM, "x"), job(), "tiny")
    assert comments == [row for row in plain.splitlines() if row.startswith("# ")]
    options = [row for row in text.split("\n") if row.startswith("#SBATCH ")]
    assert len(options) == plain.count("#SBATCH ") + 1
    assert "%" not in log_pattern(job(folder=Path(f"/r/{signs}"))).replace("%%", "")


def run_script(folder: Path, command: str, *words: str, variables=(), **changes) -> int:
    """Write the scripts of a job of this machine and start them by hand."""
    wanted = job(folder=folder, command=command, start_in=folder, **changes)
    cluster = Cluster.parse({"executor": "local", "env": dict(variables)}, "here")
    write_scripts(cluster, wanted, "tiny")
    done = subprocess.run(
        ["bash", str(folder / "job.sh"), *words],
        env={**os.environ, "LONGRUN_FILE_SECONDS": "0", **SURROUNDING_JOB},
        capture_output=True,
        check=False,
    )
    return done.returncode


def test_a_job_around_this_one_is_neither_kept_nor_obeyed(tmp_path):
    assert run_script(tmp_path, 'echo "${RANK:-}${NNODES:-}${LONGRUN_PART:-}" > out') == 0
    assert (tmp_path / "out").read_text() == "\n"
    assert not (tmp_path / "ids").exists()
    assert (
        run_script(tmp_path / "array", "echo $LONGRUN_PART > $LONGRUN_FOLDER/out", num_parts=3) == 0
    )
    assert (tmp_path / "array/parts/1/out").read_text() == "1\n"


def test_an_attempt_that_was_overtaken_does_not_say_how_the_job_ended(tmp_path):
    assert run_script(tmp_path, 'echo newer > "$LONGRUN_FOLDER/attempt"; exit 3') == 3
    assert not (tmp_path / "exit").exists()
    assert run_script(tmp_path, "exit 3") == 3
    assert (tmp_path / "exit").read_text() == "3\n"


@pytest.mark.parametrize(
    ("before", "code"), [("0", 0), ("1", 213), ("75", 213), ("", 213)], ids=str
)
def test_a_job_starts_only_after_jobs_that_are_done(tmp_path, before, code):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    if before:
        (tmp_path / "first/exit").write_text(f"{before}\n")
    folder = tmp_path / "second"
    assert run_script(folder, "touch started", after=(tmp_path / "first",)) == code
    assert (folder / "started").exists() == (code == 0)


@pytest.mark.parametrize(
    ("earlier", "starts"), [("75", True), ("", True), ("2", False), ("0", False)], ids=str
)
def test_a_later_job_of_a_chain_goes_on_unless_the_work_is_done_or_failed(
    tmp_path, earlier, starts
):
    if earlier:
        (tmp_path / "exit").write_text(f"{earlier}\n")
    code = run_script(tmp_path, "touch started", CONTINUED)
    assert (tmp_path / "started").exists() == starts
    assert code == (1 if earlier == "2" else 0)
