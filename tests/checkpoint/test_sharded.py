import os
from pathlib import Path

import pytest
import torch

from longrun.checkpoint.sharded import (
    LoopState,
    checkpoint_name,
    find_checkpoints,
    load_checkpoint,
    read_state,
)
from longrun.checkpoint.stored import StoredCheckpoint
from longrun.errors import InputError
from longrun.parallel.mesh import Mesh

ALONE = Mesh(0, 1, torch.device("cpu"), "none")


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.a": torch.randn(5, 3, generator=generator),
        "model.b": torch.randn(4, generator=generator),
        "optimizer.a.exp_avg": torch.randn(5, 3, generator=generator),
        "optimizer.a.step": torch.tensor(7.0),
    }


@pytest.fixture
def save(save_checkpoint):
    def save(folder, step: int, seed: int = 0):
        state = LoopState(step, 1, 2, recent_losses=[0.1, 1 / 3])
        return save_checkpoint(folder, state, tensors(seed))

    return save


def test_a_checkpoint_comes_back_bitwise(tmp_path, save):
    path = save(tmp_path, 100)
    assert path == tmp_path / "checkpoints" / "step-00000100"
    target = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    assert load_checkpoint(path, target, ALONE) == LoopState(100, 1, 2, recent_losses=[0.1, 1 / 3])
    assert all(torch.equal(target[name], tensor) for name, tensor in tensors().items())
    assert StoredCheckpoint(path).shapes == {"a": (5, 3), "b": (4,)}


def test_one_tensor_can_be_read_alone(tmp_path, save):
    path = save(tmp_path, 1)
    part = {"model.b": torch.zeros(4)}
    load_checkpoint(path, part, ALONE)
    assert torch.equal(part["model.b"], tensors()["model.b"])


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path, save):
    for step in (20, 3, 100):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / ".step-00000200.tmp").mkdir()
    (tmp_path / "checkpoints" / "step-last").mkdir()
    (tmp_path / "checkpoints" / "step-000000200").mkdir()
    assert list(find_checkpoints(tmp_path)) == [3, 20, 100]
    assert find_checkpoints(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.json"])
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, name, save):
    path = save(tmp_path, 1)
    os.truncate(path / name, 10)
    with pytest.raises(InputError, match=r"step-00000001: cannot be read .*delete this folder"):
        load_checkpoint(path, tensors(1), ALONE)


def test_another_model_is_refused(tmp_path, save):
    path = save(tmp_path, 1)
    with pytest.raises(InputError, match=r"cannot be read .*model\.c"):
        load_checkpoint(path, {"model.c": torch.zeros(2)}, ALONE)
    with pytest.raises(InputError, match=r"cannot be read .*model\.a"):
        load_checkpoint(path, {"model.a": torch.zeros(2)}, ALONE)
    with pytest.raises(InputError):
        read_state(tmp_path)


def test_names_sort_as_their_steps():
    assert checkpoint_name(100) == "step-00000100"
    assert checkpoint_name(123456789) == "step-123456789"
    assert Path(checkpoint_name(9)) < Path(checkpoint_name(10))


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.json", "checksums.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
def test_a_damaged_file_of_a_checkpoint_is_noticed_before_anything_is_loaded(
    how, name, tmp_path, save
):
    path = save(tmp_path, 1)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    if how == "remove":
        (path / name).unlink()
    else:
        ends = {"flip": len(content), "cut": len(content) - 1, "empty": 0}
        (path / name).write_bytes(content[: ends[how]])
    target = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    with pytest.raises(InputError, match=r"step-00000001: cannot be read .* delete this folder"):
        load_checkpoint(path, target, ALONE)
    assert not any(tensor.any() for tensor in target.values())
