"""Reading the pieces of a checkpoint where they lie."""

import pytest
import torch

from longrun.checkpoint.sharded import LoopState
from longrun.checkpoint.stored import StoredCheckpoint
from longrun.errors import InputError


@pytest.fixture
def saved(save_checkpoint, tmp_path):
    tensors = {
        "model.wide": torch.randn(7, 300),
        "model.long": torch.randn(1000),
        "model.half": torch.randn(5, 4).bfloat16(),
        "optimizer.wide.exp_avg": torch.randn(7, 300),
    }
    return save_checkpoint(tmp_path, LoopState(3, 0, 0), tensors), tensors


def test_rows_are_those_that_were_saved(saved):
    path, tensors = saved
    buffer = torch.empty(1 << 16, dtype=torch.uint8)
    with StoredCheckpoint(path) as stored:
        assert stored.shapes == {"wide": (7, 300), "long": (1000,), "half": (5, 4)}
        for name in stored.shapes:
            (piece,) = stored.pieces(name)
            whole = tensors[f"model.{name}"]
            assert piece.place == tuple(slice(0, size) for size in whole.shape)
            for begin, end in ((0, len(whole)), (2, 5), (len(whole) - 1, len(whole))):
                assert torch.equal(piece.read_rows(begin, end, buffer), whole[begin:end])


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_file_that_was_cut_is_damaged_and_named(share, saved):
    path, _ = saved
    (file,) = path.glob("*.distcp")
    with file.open("rb+") as opened:
        opened.truncate(int(file.stat().st_size * share))
    wanted = r"step-00000003.*cannot be read"
    with StoredCheckpoint(path) as stored, pytest.raises(InputError, match=wanted):
        list(map(stored.pieces, stored.shapes))


def test_a_missing_file_or_metadata_is_named(saved):
    path, _ = saved
    (file,) = path.glob("*.distcp")
    file.unlink()
    with StoredCheckpoint(path) as stored, pytest.raises(InputError, match="cannot be read"):
        stored.pieces("wide")
    (path / ".metadata").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        StoredCheckpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9])
def test_torn_metadata_is_damaged_wherever_it_was_torn(share, saved):
    path, _ = saved
    whole = (path / ".metadata").read_bytes()
    (path / ".metadata").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"step-00000003.*cannot be read"):
        StoredCheckpoint(path)


def test_numbers_that_were_changed_are_noticed_while_they_are_read(saved):
    path, tensors = saved
    (file,) = path.glob("*.distcp")
    content = bytearray(file.read_bytes())
    at = content.find(tensors["model.wide"].numpy().tobytes())
    content[at + 5000] ^= 16
    file.write_bytes(content)
    buffer = torch.empty(1 << 16, dtype=torch.uint8)
    with StoredCheckpoint(path) as stored:
        (piece,) = stored.pieces("wide")
        assert len(piece.read_rows(0, 5, buffer)) == 5
        with pytest.raises(InputError, match=r"step-00000003: cannot be read .numbers are not"):
            piece.read_rows(5, 7, buffer)
