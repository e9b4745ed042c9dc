"""`longrun run openmathreasoning/1.5b scale=tiny`: both rounds on this computer."""

import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from longrun.formats.documents import DocumentSet
from longrun.formats.predictions import read_summary
from longrun.formats.stages.manifest import Manifest
from longrun.training.metrics import read_metrics

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]
RECIPES = Path(__file__).parents[2] / "src/longrun/recipes/openmathreasoning"
SHORT = ["steps=8", "warmup_steps=1", "average_steps=[2,4,6,8]", "save_interval=2"]


@pytest.fixture(scope="module")
def longrun(tmp_path_factory, environment):
    """Return ``longrun(*arguments)``: the command in a folder that all tests here share."""
    folder = tmp_path_factory.mktemp("openmathreasoning")

    def start(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["longrun", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    start.folder = folder
    return start


@pytest.fixture(scope="module")
def run(longrun) -> Path:
    done = longrun("run", str(RECIPES / "1.5b.yaml"), "scale=tiny")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "report.html" in done.stdout
    assert done.stdout.count("Accuracy") == 1, "round 1's table is part of round 2's"
    return longrun.folder / "runs/openmathreasoning-1.5b-tiny"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_round_two_trains_on_what_its_filters_keep(run):
    first, second = (Manifest.read(run / name) for name in ("prepare", "round-2-prepare"))
    assert second.ledger.records_in == first.ledger.records_in == 5000
    reasons = ("problem_source", "pass_rate", "response_tokens")
    assert all(second.ledger.dropped[f"filter {reason}"] > 0 for reason in reasons)
    documents = DocumentSet.open(run / "round-2-prepare/train")
    modes = Counter(documents.origin(index).mode for index in range(len(documents)))
    assert all(modes[mode] > 100 for mode in ("cot", "tir", "genselect"))


def test_each_round_averages_its_own_four_checkpoints(run):
    assert [path.name for path in sorted((run / "average/members").iterdir())] == [
        f"step-{step:08d}" for step in (50, 100, 150, 200)
    ]
    for name, steps in (("average", [50, 100, 150, 200]), ("round-2-average", [10, 20, 30, 40])):
        manifest = Manifest.read(run / name)
        assert manifest.settings["steps"] == steps
        assert manifest.counts == {"members": 4, "last_step": steps[-1]}


def test_the_changed_positions_reach_the_last_model(run):
    for name in ("average", "round-2-average"):
        config = json.loads((run / name / "model/config.json").read_text())
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        assert (theta, config["max_position_embeddings"]) == (500_000.0, 131_072)


def test_both_rounds_learn_and_code_is_called_and_choices_are_made(run):
    losses = [line["loss"] for line in read_metrics(run / "train") if "loss" in line]
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    for name in ("train", "round-2-train"):
        lines = read_metrics(run / name)
        held_out = [line["validation_loss"] for line in lines if line.get("validation_loss")]
        assert held_out[-1] < held_out[0]
    assert Manifest.read(run / "generate").counts["code_calls"] > 0
    rows = {(row.model, row.benchmark) for row in read_summary(run / "round-2-evaluate").rows}
    members = {f"step-{step:08d}" for step in (50, 100, 150, 200)}
    assert rows == {
        *((model, mode) for model in (*members, "average", "round-2") for mode in ("cot", "tir")),
        *((model, "select") for model in ("average", "round-2")),
    }


def test_the_recipe_beside_the_run_is_the_run(run, longrun):
    done = longrun("run", str(run / "recipe.yaml"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("up to date") == 21
    assert longrun("status", run.name).stdout.count(" done ") == 21


def test_round_two_refuses_the_folder_of_round_one_and_changes_nothing(run, longrun):
    before = contents(run / "train")
    settings = str(run / "jobs/round-2-train/config.yaml")
    done = longrun("train", settings, f"output_dir={run / 'train'}")
    assert done.returncode == 2
    assert "train.max_steps 200 -> 40" in done.stdout
    assert "Traceback" not in done.stdout
    assert contents(run / "train") == before


def test_a_step_that_was_never_saved_is_named(run, longrun):
    settings, aside = str(run / "jobs/round-2-average/config.yaml"), run.parent / "aside"
    done = longrun("average", settings, "steps=[10,20,30,50]", f"output_dir={aside}")
    assert done.returncode == 2
    assert "no checkpoint of step 50; available: 10, 20, 30, 40" in done.stdout
    assert not (aside / "model").exists()


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("7b", "data 1 x context 1 x tensor 2, states"),
        ("14b-fast", "data 1 x context 2 x tensor 1, full over 2"),
    ],
)
def test_the_layouts_of_other_sizes_train_too(longrun, name, layout):
    done = longrun("run", str(RECIPES / f"{name}.yaml"), "scale=tiny", *SHORT, "--to", "average")
    assert done.returncode == 0, done.stdout[-3000:]
    assert layout in done.stdout
    assert "average steps 2, 4, 6, 8" in done.stdout
