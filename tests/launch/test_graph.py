"""A recipe as a graph of jobs, before any cluster is asked."""

from pathlib import Path

import pytest

from longrun.config.cluster import Cluster
from longrun.config.recipe import resolve
from longrun.errors import ConfigError
from longrun.launch.graph import Launch, render_recipe
from longrun.launch.stage_jobs import seen_from_host

RAW = {
    "name": "small",
    "stages": {
        "prepare": {"data": "/data/raw/*.jsonl", "tokenizer": "/data/model"},
        "pack": {"documents": "${prepare}"},
        "train": {"packs": "${pack}", "model": "/data/model", "num_processes": 4, "num_nodes": 2},
        "report": {"stages": ["${pack}", "${train}"]},
    },
}


def scripts(tmp_path, *overrides: str, num_training_jobs: int = 1, **settings) -> dict[str, str]:
    values = {
        "executor": "slurm",
        "job_dir": str(tmp_path / "runs"),
        "partition": "gpu",
        "cpu_partition": "cpu",
        "gpus_per_node": 4,
        **settings,
    }
    cluster = Cluster.parse(values, "test")
    recipe = resolve(RAW, list(overrides), "small", cluster.job_dir)
    launch = Launch(cluster=cluster, num_training_jobs=num_training_jobs)
    rendered = render_recipe(recipe, list(recipe.stages), launch)
    return {path.parent.name: text for path, text in rendered if path.name == "job.sh"}


def lines(text: str, *starts: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(starts)]


def test_stages_wait_for_what_they_read_and_ask_for_what_they_need(tmp_path):
    found = scripts(tmp_path)
    jobs = tmp_path / "runs/small/jobs"
    assert list(found) == list(RAW["stages"])
    assert lines(found["prepare"], "after=") == ["after=()"]
    assert lines(found["pack"], "after=") == [f"after=({jobs}/prepare)"]
    assert lines(found["report"], "after=") == [f"after=({jobs}/pack {jobs}/train)"]
    asked = ("#SBATCH --nodes", "#SBATCH --gpus", "#SBATCH --partition")
    assert lines(found["pack"], *asked) == ["#SBATCH --partition=cpu", "#SBATCH --nodes=1"]
    assert lines(found["train"], *asked) == [
        "#SBATCH --partition=gpu",
        "#SBATCH --nodes=2",
        "#SBATCH --gpus-per-node=4",
    ]
    assert not (tmp_path / "runs").exists()


def test_the_jobs_of_a_recipe_say_more_and_can_be_set_where_it_is_started(tmp_path):
    found = scripts(tmp_path, "jobs.pack.time_limit=90m", "jobs.pack.sbatch=[--qos=low]")
    assert "#SBATCH --time=0-01:30:00" in found["pack"]
    assert "#SBATCH --qos=low" in found["pack"]
    assert "--time" not in found["train"]
    limits = {"cpu": "1h", "gpu": "2d"}
    found = scripts(tmp_path, "jobs.pack.partition=gpu", time_limits=limits)
    assert "#SBATCH --time=2-00:00:00" in found["pack"]
    assert "#SBATCH --time=0-01:00:00" in found["prepare"]


def test_gpus_follow_from_the_processes_where_slurm_cannot_be_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ("train.num_processes=2", "train.num_nodes=2")
    found = scripts(tmp_path, *words, gpus_per_node=None)
    assert "#SBATCH --gpus-per-node=2" in found["train"]
    assert "--gpus" not in found["pack"]
    assert "--gpus" not in scripts(tmp_path, *words, gpus_per_node=0)["train"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("jobs.pak.cpus=4", r"jobs: no stage 'pak'; did you mean pack\?"),
        ("jobs.pack.cpu=4", r"jobs\.pack\.cpu: unknown setting; did you mean cpus\?"),
        ("jobs.pack.time_limit=soon", r"jobs\.pack\.time_limit: is not a time"),
        ("train.num_processes=8", r"stage train: 8 GPUs on a node, but .* gpus_per_node: 4"),
    ],
)
def test_what_a_recipe_cannot_ask_for_is_one_line(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        scripts(tmp_path, override)


def test_a_path_that_no_container_would_see_is_refused(tmp_path):
    container = {"container_runtime": "pyxis", "container": "image:1"}
    with pytest.raises(ConfigError, match=r"stage prepare: /data/.* is in no mount"):
        scripts(tmp_path, **container)
    with pytest.raises(ConfigError, match=r"/data/.* is in no mount of the cluster file \(/dat,"):
        scripts(tmp_path, **container, mounts=["/dat"])
    text = scripts(tmp_path, "jobs.pack.container=other", **container, mounts=["/data"])["pack"]
    assert "--container-image=other" in text
    assert f"--container-mounts=/data:/data,{tmp_path}/runs:{tmp_path}/runs" in text


def test_folders_that_are_named_as_inside_are_looked_at_outside(tmp_path):
    values = {
        "executor": "slurm",
        "job_dir": "/lustre/me/runs",
        "container_runtime": "pyxis",
        "mounts": ["/lustre:/lustre", "/lustre/me/lab:/workspace", "/lustre/data:/workspace/data"],
    }
    recipe = resolve(RAW, ["output_dir=/workspace/out"], "small")
    seen = seen_from_host(Cluster.parse(values, "x"), recipe)
    assert seen.output_dir == Path("/lustre/me/lab/out")
    assert seen.stage("pack").config.documents == Path("/lustre/me/lab/out/prepare")
    moved = resolve(RAW, ["prepare.tokenizer=/workspace/data/model"], "small")
    seen = seen_from_host(Cluster.parse(values, "x"), moved)
    assert seen.stage("prepare").config.tokenizer == Path("/lustre/data/model")
