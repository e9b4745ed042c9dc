"""A checkpoint that somebody else has written to runs nothing, whoever reads it."""

import dataclasses
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from longrun.checkpoint.metadata import read_metadata
from longrun.checkpoint.sharded import LoopState, load_checkpoint
from longrun.checkpoint.stored import StoredCheckpoint
from longrun.errors import InputError
from longrun.formats.stages.damage import checksum_of
from longrun.parallel.mesh import Mesh

ALONE = Mesh(0, 1, torch.device("cpu"), "none")


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def saved(save_checkpoint, tmp_path):
    tensors = {"model.a": torch.randn(7, 3), "optimizer.a.step": torch.tensor(7.0)}
    return save_checkpoint(tmp_path, LoopState(3, 0, 0), tensors)


def sign(path):
    """Do what whoever plants something can do too: write its checksums."""
    sums = {file.name: checksum_of(file) for file in path.iterdir() if file.suffix != ".json"}
    sums["state.json"] = checksum_of(path / "state.json")
    (path / "checksums.json").write_text(json.dumps(sums))


def refuse_everywhere(path, match):
    """Every reader of checkpoints refuses ``path`` and makes nothing beside it."""
    sign(path)
    target = {"model.a": torch.zeros(7, 3)}
    for read in (
        read_metadata,
        StoredCheckpoint,
        lambda place: load_checkpoint(place, target, ALONE),
    ):
        with pytest.raises(InputError, match=match):
            read(path)
    assert not (path.parent / "planted").exists()


def rewrite(path, change):
    index = read_metadata(path)
    change(index)
    (path / ".metadata").write_bytes(pickle.dumps(index))


def test_a_planted_index_is_refused_and_runs_nothing(saved):
    (saved / ".metadata").write_bytes(pickle.dumps(Planted(saved.parent / "planted")))
    refuse_everywhere(saved, r"step-00000003: cannot be read \(\.metadata names posix\.mkdir")


def test_what_is_planted_inside_a_real_index_is_refused_too(saved):
    def plant(index):
        index.planner_data = Planted(saved.parent / "planted")

    rewrite(saved, plant)
    refuse_everywhere(saved, "names posix.mkdir")


@pytest.mark.parametrize("name", ["load", "os.system", "hub.load", "float32.__class__"])
def test_of_torch_itself_only_what_describes_tensors_is_known(saved, name):
    text = f"ctorch\n{name}\n.".encode()
    (saved / ".metadata").write_bytes(text)
    refuse_everywhere(saved, "describes no tensor")


def test_an_entry_that_torch_would_unpickle_freely_is_refused(saved):
    def plant(index):
        index.state_dict_metadata["model.a"] = BytesStorageMetadata()

    index = read_metadata(saved)
    plant(index)
    (saved / ".metadata").write_bytes(pickle.dumps(index))
    refuse_everywhere(saved, "BytesStorageMetadata, which describes no tensor")


@pytest.mark.parametrize("name", ["../step-00000001/__0_0.distcp", "/etc/passwd", "state.json"])
def test_a_file_outside_the_checkpoint_is_refused(saved, name):
    def point(index):
        where = MetadataIndex("model.a", torch.Size([0, 0]))
        found = next(key for key in index.storage_data if key.fqn == where.fqn)
        index.storage_data[found] = dataclasses.replace(
            index.storage_data[found], relative_path=name
        )

    rewrite(saved, point)
    refuse_everywhere(saved, "is not a file of a training's checkpoint")


def test_a_pickle_planted_in_the_place_of_a_tensor_is_refused_and_runs_nothing(saved):
    info = next(
        info for key, info in read_metadata(saved).storage_data.items() if key.fqn == "model.a"
    )
    with zipfile.ZipFile(saved / "planted.zip", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Planted(saved.parent / "planted"), 2))
        archive.writestr("x/version", "3\n")
    planted = (saved / "planted.zip").read_bytes()

    def grow(index):
        for key, old in index.storage_data.items():
            if old == info:
                index.storage_data[key] = dataclasses.replace(old, offset=0, length=len(planted))

    rewrite(saved, grow)
    (saved / "__0_0.distcp").write_bytes(planted)
    sign(saved)
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(saved, {"model.a": torch.zeros(7, 3)}, ALONE)
    with StoredCheckpoint(saved) as stored, pytest.raises(InputError, match="cannot be read"):
        stored.pieces("a")
    assert not (saved.parent / "planted").exists()
