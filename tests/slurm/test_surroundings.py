"""What stands around a job: variables of the user, wrappers of the site, names of any kind."""

import os
import shutil

import pytest

from longrun import run_cmd
from longrun.errors import ConfigError

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("slurm")]
DIRECTORY = 'a b\'c "d" %j #x [1] $HOME `id` é'
MISLEADING = {
    "SQUEUE_STATES": "PENDING",
    "SQUEUE_USERS": "nobody",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_PARTITION": "cpu",
    "SLURM_CLUSTERS": "elsewhere",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_PARTITION": "nowhere",
    "SCANCEL_STATE": "PENDING",
    "SCANCEL_INTERACTIVE": "1",
    "SCONTROL_ALL": "1",
    "SINFO_FORMAT": "%D",
    "SINFO_PARTITION": "cpu",
    "SACCT_FORMAT": "jobid",
    "SBATCH_ARRAY_INX": "1-5",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_TIMELIMIT": "soon",
    "SBATCH_WAIT": "1",
    "SRUN_EXPORT_ENV": "NONE",
}


def test_variables_of_slurm_change_nothing_that_is_believed(desk, monkeypatch):
    for name, value in MISLEADING.items():
        monkeypatch.setenv(name, value)
    cluster = desk.write_cluster(env={"WORD": "kept"})
    go_on = desk.folder / "go-on"
    command = f"echo $WORD; touch started; until [ -e {go_on} ]; do sleep 0.1; done"
    handle = run_cmd(command, cluster=cluster, expname="seen")
    desk.until((desk.folder / "started").exists, "the start")
    assert handle.state().state == "running"
    error = desk.longrun("run_cmd", "--expname", "seen", command, check=False, **MISLEADING)
    assert "experiment seen is running" in error
    assert len(desk.slurm.run("squeue", "-h", "-n", "seen").splitlines()) == 1
    shown = desk.longrun("cancel", "seen", **MISLEADING)
    assert "cancelled: seen" in shown
    desk.wait_for("seen", seen="cancelled")
    assert handle.log().startswith("kept\n")


def test_partition_and_account_of_the_environment_are_asked_for(desk, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "cpu")
    monkeypatch.setenv("SBATCH_ACCOUNT", "group")
    handle = run_cmd("sleep 30", cluster=desk.write_cluster(partition=None), expname="booked")
    shown = desk.slurm.run("squeue", "-h", "-j", handle.ids[0], "-o", "%P %a")
    handle.cancel()
    assert shown == "cpu group\n"


@pytest.mark.parametrize(
    "text",
    [
        'echo "Welcome to 2 machines"; echo 2026; echo "-> queue OK" >&2; {real} "$@"',
        '{real} "$@" | sed "s/$/;tests/"; echo; echo "Thank you, 17 jobs today"; echo 17',
    ],
    ids=["before", "after"],
)
def test_a_wrapper_with_words_of_its_own_does_not_hide_the_job(desk, text, monkeypatch):
    programs = desk.folder / "programs"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sinfo"):
        real = shutil.which(name, path=desk.slurm.environment["PATH"])
        words = text if name == "sbatch" else 'echo "3 RUNNING words"; {real} "$@"'
        (programs / name).write_text(f"#!/bin/bash\n{words.replace('{real}', real)}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    handle = run_cmd("echo ran", cluster=desk.write_cluster(), expname="wrapped")
    assert len(handle.ids) == 1
    assert handle.wait().state == "done"
    assert handle.log() == "ran\n"
    assert desk.slurm.run("squeue", "-h", "-t", "all", "-j", handle.ids[0], "-o", "%j") == (
        "wrapped\n"
    )


def test_a_job_without_the_environment_of_the_shell_still_has_its_own(desk):
    cluster = desk.write_cluster(sbatch=["--export=NONE"], env={"WORD": "given"})
    handle = run_cmd("echo $WORD; echo inside", cluster=cluster, expname="bare")
    assert handle.wait().state == "done", handle.log()
    assert handle.log() == "given\ninside\n"
    cluster = desk.write_cluster(sbatch=["--export=NONE"], required_env=["HOME"])
    with pytest.raises(ConfigError, match=r"required_env: HOME would not reach the job"):
        run_cmd("true", cluster=cluster, expname="bare-secret")


def test_every_name_arrives_at_slurm_as_it_was_written(desk, monkeypatch):
    place = desk.folder / DIRECTORY
    place.mkdir()
    monkeypatch.chdir(place)
    cluster = desk.write_cluster(
        job_dir=str(place / "runs"),
        job_name_prefix="my 'own' \"x\" %j #-",
        account="two words\\ %u",
        sbatch=['--comment=it\'s "two" words #1'],
        env={"WORD": "a 'b' \"c\"\n\n\n$d `e` \\"},
    )
    command = 'printf "%s\\0" "$WORD" "$PWD"; sleep 1'
    handle = run_cmd(command, cluster=cluster, expname="named", log_dir=place / "100%j")
    shown = desk.slurm.run("squeue", "-h", "-j", handle.ids[0], "-o", "%j|%a|%k|%Z").rstrip("\n")
    assert shown.split("|")[0] == "my 'own' \"x\" %j #-named"
    assert shown.split("|")[1] == "two words\\ %u"
    assert shown.split("|")[2].strip() == 'it\'s "two" words #1'
    assert shown.split("|")[3] == str(place)
    assert handle.wait().state == "done"
    assert handle.log() == f"a 'b' \"c\"\n\n\n$d `e` \\\0{place}\0"
    assert (place / "100%j/named.log").exists()
    parts = run_cmd("echo $LONGRUN_PART", cluster=cluster, expname="many", num_parts=2)
    assert parts.wait().state == "done"
    assert (parts.folder / "parts/2/log.txt").read_text() == "2\n"


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b", "\udcff"], ids=repr)
def test_what_no_script_can_hold_is_refused_before_anything_is_submitted(desk, sign, monkeypatch):
    place = desk.folder / f"a{sign}b"
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(ConfigError, match=r"working folder '.*' holds a line break or another"):
        run_cmd("true", cluster=desk.write_cluster(), expname="refused")
    assert not desk.slurm.run("squeue", "-h", "-n", "refused")
    assert not (desk.runs / "refused").exists()


def test_a_folder_of_a_recipe_that_would_be_split_or_run_is_refused(desk):
    recipe = "name: tiny\nstages: {problems: {verb: synthesize, num_cot: 5, num_tir: 5}}\n"
    (desk.folder / "tiny.yaml").write_text(recipe)
    for extra in ([], ["--dry-run"]):
        words = ["run", "tiny.yaml", 'output_dir="x\\ntouch PWNED\\n/y"', *extra]
        assert "output_dir" in desk.longrun(*words, check=False)
    assert not (desk.folder / "PWNED").exists()


def test_gpus_are_asked_for_where_the_cluster_has_them_and_refused_where_it_has_none(desk):
    asked = ("train", "--num_nodes=2", "--nemo_model=base", "--output_dir=out", "--expname=big",
             "--training_data=packs", "--dry-run")  # fmt: skip
    shown = desk.longrun(*asked, "--num_gpus=2")
    assert "#SBATCH --gpus-per-node=2" in shown
    error = desk.longrun(*asked, "--num_gpus=8", check=False)
    assert "stage train: 8 GPUs on a node, but partition batch of cluster test has 2" in error
    desk.write_cluster(gpus_per_node=0)
    error = desk.longrun(*asked, "--num_gpus=2", check=False)
    assert "stage train: 2 GPUs on a node, but partition batch of cluster test has 0" in error
    command = "echo $CUDA_VISIBLE_DEVICES"
    handle = run_cmd(command, cluster=desk.write_cluster(), expname="sees", num_gpus=2)
    assert handle.wait().state == "done"
    assert handle.log() == "0,1\n"
    with pytest.raises(ConfigError, match=r"num_gpus: 3 GPUs on a node, .* has 2 \(Slurm says: 2"):
        run_cmd(command, cluster=desk.write_cluster(), expname="too-many", num_gpus=3)
