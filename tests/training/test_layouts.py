"""One loss curve under every layout, and trainings that change their layout on the way.

One process wrote the golden curve: ``python tests/training/test_layouts.py`` writes it anew.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longrun.checkpoint import average
from longrun.checkpoint.sharded import MODEL_PREFIX, find_checkpoints, load_checkpoint
from longrun.checkpoint.stored import StoredCheckpoint
from longrun.config.training import AverageConfig
from longrun.errors import ConfigError
from longrun.parallel.mesh import Mesh
from longrun.training import train as stage
from longrun.training.metrics import read_metrics

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("layouts")]
"""Up to four starts of torch, slow when the machine is busy."""
GOLDEN = Path(__file__).parent / "golden" / "loss-curve.json"
MODEL = {"hidden_size": 24, "num_heads": 6, "num_kv_heads": 2}
SETTINGS = {"max_steps": 8, "save_interval": 2, "validation_interval": 4}
LAYOUTS = {
    "one process": {},
    "data 2": {"num_processes": 2},
    "data 2, states": {"num_processes": 2, "sharding": "states"},
    "tensor 2": {"num_processes": 2, "tensor_parallel": 2},
    "context 2": {"num_processes": 2, "context_parallel": 2, "sharding": "full"},
    "data 2, tensor 2, full": {"num_processes": 4, "tensor_parallel": 2, "sharding": "full"},
    "tensor 2, context 2, recomputed": {
        "num_processes": 4,
        "tensor_parallel": 2,
        "context_parallel": 2,
        "sharding": "full",
        "recompute": "pointwise",
    },
    "data 4, full in groups": {"num_processes": 4, "sharding": "full", "shard_size": 2},
}


def curve(folder: Path) -> dict[str, list[float]]:
    lines = read_metrics(folder)
    names = ("loss", "grad_norm", "validation_loss")
    return {name: [line[name] for line in lines if name in line] for name in names}


def assert_golden(folder: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = curve(folder)
    assert found.keys() == golden.keys()
    for name, numbers in golden.items():
        assert found[name] == pytest.approx(numbers, rel=2e-5), name


@pytest.fixture(scope="module")
def even_world(build_world, tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("even"), **MODEL)


@pytest.fixture(scope="module")
def trained(even_world, tmp_path_factory):
    """Return the folder of a training under a layout."""
    folders: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("runs") / "run"
            stage.run(even_world.config(folder, **SETTINGS, **LAYOUTS[name]))
            folders[name] = folder
        return folders[name]

    return train


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_loss_curve_is_the_golden_one(trained, name):
    assert_golden(trained(name))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tensor 2, context 2, recomputed", "data 2, states"),
        ("data 4, full in groups", "context 2"),
        ("data 2", "data 2, tensor 2, full"),
        ("tensor 2", "one process"),
    ],
)
def test_a_training_goes_on_under_another_layout(
    trained, even_world, interrupt_after, tmp_path, before, after
):
    folder = tmp_path / "run"
    interrupt_after(4, trained(before), folder)
    stage.run(even_world.config(folder, **SETTINGS, **LAYOUTS[after]))
    assert_golden(folder)


def test_a_training_goes_on_under_its_own_layout_bit_for_bit(
    trained, even_world, interrupt_after, tmp_path
):
    name = "tensor 2, context 2, recomputed"
    folder = tmp_path / "run"
    interrupt_after(4, trained(name), folder)
    stage.run(even_world.config(folder, **SETTINGS, **LAYOUTS[name]))
    assert curve(folder) == curve(trained(name))
    weights = "final/model.safetensors"
    assert (folder / weights).read_bytes() == (trained(name) / weights).read_bytes()


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoints_of_a_layout_average_to_the_mean_of_what_they_hold(name, trained, tmp_path):
    folder = trained(name)
    config = AverageConfig(
        checkpoints=folder, steps=[4, 6, 8], dtype="float32", output_dir=tmp_path / "mean"
    )
    average.run(config)
    found = load_file(tmp_path / "mean/model/model.safetensors")
    members = [held_by(path) for path in list(find_checkpoints(folder).values())[1:]]
    assert members[0].keys() == found.keys()
    for key, tensor in found.items():
        first, second, third = (member[key] for member in members)
        assert torch.equal(tensor, (first + second + third) / 3), key


def held_by(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint by torch's own loader."""
    with StoredCheckpoint(path) as stored:
        shapes = stored.shapes
    tensors = {MODEL_PREFIX + name: torch.zeros(shape) for name, shape in shapes.items()}
    load_checkpoint(path, tensors, Mesh(0, 1, torch.device("cpu"), "none"))
    return {name.removeprefix(MODEL_PREFIX): tensor for name, tensor in tensors.items()}


def test_an_illegal_layout_is_refused_with_the_nearest_legal_one(even_world, tmp_path):
    config = even_world.config(tmp_path / "run", num_processes=4, tensor_parallel=4)
    wanted = r"train: tensor 4 does not divide the 2 key-value heads; the nearest legal layout is"
    with pytest.raises(ConfigError, match=wanted):
        stage.run(config)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    from conftest import make_world

    with tempfile.TemporaryDirectory() as scratch:
        world = make_world(Path(scratch) / "world", **MODEL)
        stage.run(world.config(Path(scratch) / "run", **SETTINGS))
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(curve(Path(scratch) / "run"), indent=1) + "\n")
