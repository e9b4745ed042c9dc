"""A recipe through a real Slurm, disturbed, against the same recipe undisturbed on this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600), pytest.mark.xdist_group("slurm")]
STEPS = 400
TRAIN = {
    "max_steps": STEPS,
    "max_epochs": 99,
    "global_batch_size": 2,
    "save_interval": 20,
    "keep_checkpoints": 3,
    "num_nodes": 2,
}
RECIPE = {
    "name": "tiny",
    "stages": {
        "problems": {
            "verb": "synthesize",
            "num_cot": 40,
            "num_tir": 40,
            "num_genselect": 40,
            "num_held_out": 5,
        },
        "tokenizer": {
            "verb": "train_tokenizer",
            "data": "${problems}/train/*.jsonl",
            "vocab_size": 400,
        },
        "base": {
            "verb": "init_model",
            "tokenizer": "${tokenizer}",
            "num_layers": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "num_kv_heads": 1,
        },
        "prepare": {"data": "${problems}/train/*.jsonl", "tokenizer": "${base}", "num_workers": 1},
        "pack": {"documents": "${prepare}", "pack_size": 1024},
        "train": {"packs": "${pack}", "model": "${base}", **TRAIN},
        "average": {"checkpoints": "${train}", "steps": "last:2", "dtype": "float32"},
    },
}
MODELS = ("train/final/model.safetensors", "average/model/model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The recipe on this machine: two nodes are two starters that meet on loopback."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-m", "longrun", "run", "tiny.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs/tiny"


def steps_of(run: Path) -> int:
    path = run / "train/metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def warn(desk, name: str) -> None:
    """Send what Slurm sends before a time limit: SIGUSR1 to the shell of the job."""
    desk.slurm.run("scancel", "--batch", "--signal=USR1", name)


def test_a_lost_node_and_a_time_limit_leave_the_bytes_of_an_undisturbed_run(desk, undisturbed):
    (desk.folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    shown = desk.longrun("run", "tiny.yaml")
    assert shown.count("submitted") == len(RECIPE["stages"])
    run, ids = desk.runs / "tiny", desk.runs / "tiny/jobs/train/ids"
    desk.until((run / "train/checkpoints/step-00000020").exists, "a checkpoint", 200)
    job = ids.read_text().split()[0]
    nodes = desk.slurm.run("scontrol", "show", "hostnames", node_list(desk, job)).split()
    attempt = run / "jobs/train/attempt"
    first = attempt.read_text()
    desk.slurm.lose_node(nodes[1])
    # Either the job notices first and goes back into the queue, or Slurm does it.
    desk.until(lambda: attempt.read_text() != first, "the second attempt", 100)
    lost_at = steps_of(run)
    assert lost_at < STEPS
    desk.until(lambda: steps_of(run) >= lost_at + 5, "steps of it", 200)
    warn(desk, job)
    desk.slurm.start_node(nodes[1])
    desk.until(lambda: "time limit: back" in desk.log("tiny", "train"), "the second requeue", 60)
    assert steps_of(run) < STEPS
    desk.wait_for("tiny", 300, train="done", average="done")
    assert ids.read_text().split() == [job]
    log = desk.log("tiny", "train")
    assert log.count("continues after step") == 2
    for name in MODELS:
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert desk.longrun("run", "tiny.yaml").count("up to date") == len(RECIPE["stages"])


def node_list(desk, job: str) -> str:
    return desk.slurm.run("squeue", "-h", "-j", job, "-o", "%N").strip()


def test_a_chain_of_jobs_goes_on_where_jobs_may_not_requeue_and_stops_early(desk, undisturbed):
    desk.write_cluster(requeue=False)
    train = {"packs": str(undisturbed / "pack"), "model": str(undisturbed / "base"), **TRAIN}
    average = RECIPE["stages"]["average"]
    recipe = {"name": "chain", "stages": {"train": train, "average": average}}
    (desk.folder / "chain.yaml").write_text(yaml.safe_dump(recipe))
    desk.longrun("run", "chain.yaml", "--num_training_jobs", "4")
    run = desk.runs / "chain"
    ids = (run / "jobs/train/ids").read_text().split()
    assert len(ids) == 4
    desk.until(lambda: steps_of(run) >= 12, "first steps", 200)
    warn(desk, ids[0])
    desk.wait_for("chain", 300, train="done", average="done")
    log = desk.log("chain", "train")
    assert log.count("continues after step") == 1
    assert log.count("train is done") == 2
    for name in MODELS:
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_what_is_queued_is_left_alone_and_a_failed_stage_cancels_what_reads_it(desk):
    stages = dict(RECIPE["stages"])
    stages = {name: stages[name] for name in ("problems", "tokenizer", "base")}
    stages["tokenizer"] = {**stages["tokenizer"], "data": "${problems}/nothing/*.jsonl"}
    recipe = {"name": "broken", "stages": stages}
    (desk.folder / "broken.yaml").write_text(yaml.safe_dump(recipe))
    gate = "while [ ! -e open ]; do sleep 0.2; done"
    desk.longrun("run_cmd", "--expname", "gate", gate)
    desk.longrun("run", "broken.yaml", "--run_after", "gate")
    assert set(desk.states("broken").values()) == {"queued"}
    again = desk.longrun("run", "broken.yaml", "--run_after", "gate")
    assert again.count("queued") == 3
    error = desk.longrun("run", "broken.yaml", "problems.seed=1", check=False)
    assert "stage problems is queued with other settings; cancel it first" in error
    (desk.folder / "open").touch()
    desk.wait_for("broken", problems="done", tokenizer="failed", base="cancelled")
    stages["tokenizer"]["data"] = "${problems}/train/*.jsonl"
    (desk.folder / "broken.yaml").write_text(yaml.safe_dump(recipe))
    assert desk.longrun("run", "broken.yaml").count("up to date") == 1
    desk.wait_for("broken", problems="done", tokenizer="done", base="done")
