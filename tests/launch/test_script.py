"""The text of job scripts is a promise to people who read, keep and submit them by hand."""

import os
import subprocess
from pathlib import Path

import pytest

from longrun.config.cluster import Cluster
from longrun.launch.jobs import Job, Resources
from longrun.launch.script import CONTINUED, render_command, render_job, write_scripts

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path("/runs/tiny/jobs")
SLURM = {"executor": "slurm", "job_dir": "/runs", "python": "python3"}


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
    settings, wanted = CASES[name]
    text = render_job(Cluster.parse(settings, name), wanted, "tiny")
    text += "--- command.sh\n" + render_command(wanted)
    assert text == (GOLDEN / f"{name}.sh").read_text(), "read the difference, then write it anew"


@pytest.mark.parametrize("name", CASES)
def test_the_scripts_are_valid_bash(name, tmp_path):
    settings, wanted = CASES[name]
    path = tmp_path / "job.sh"
    path.write_text(render_job(Cluster.parse(settings, name), wanted, "tiny"))
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize(("limit", "seconds"), [(None, 300), (86400, 300), (400, 100), (60, 15)])
def test_the_warning_leaves_most_of_a_short_limit_for_work(limit, seconds):
    wanted = job(resumable=True, resources=Resources(time_limit=limit))
    text = render_job(Cluster.parse(SLURM, "x"), wanted, "tiny")
    assert f"#SBATCH --signal=B:USR1@{seconds}\n" in text


def test_values_with_blanks_and_quotes_stay_whole():
    wanted = job(folder=Path("/runs/a b/jobs/it's"), start_in=Path("/home/my place"))
    cluster = Cluster.parse({**SLURM, "env": {"WORDS": "a 'b' $c"}}, "x")
    text = render_job(cluster, wanted, "tiny")
    printed = subprocess.run(
        ["bash", "-c", text.split("attempt=")[0] + 'echo "$job"'], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert printed == "/runs/a b/jobs/it's\n"
    line = next(line for line in text.splitlines() if line.startswith("export WORDS"))
    assert subprocess.run(
        ["bash", "-c", f'{line}; echo "$WORDS"'], capture_output=True, text=True, check=True
    ).stdout == "a 'b' $c\n"  # fmt: skip


def run_script(folder: Path, command: str, *words: str, **changes) -> int:
    """Write the scripts of a job of this machine and start them by hand."""
    wanted = job(folder=folder, command=command, start_in=folder, **changes)
    write_scripts(Cluster.parse({"executor": "local"}, "here"), wanted, "tiny")
    done = subprocess.run(
        ["bash", str(folder / "job.sh"), *words],
        env={**os.environ, "LONGRUN_FILE_SECONDS": "0"},
        capture_output=True,
        check=False,
    )
    return done.returncode


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
