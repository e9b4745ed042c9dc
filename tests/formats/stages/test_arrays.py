import resource

import numpy as np
import pytest

from longrun.errors import ResourceError
from longrun.formats.stages.arrays import write_array
from longrun.formats.stages.atomic import atomic_file


@pytest.mark.parametrize("values", [
    np.arange(7), np.zeros(0, np.int64), np.arange(12).reshape(3, 4)[:, ::2],
    np.array([(1, 2.0)], [("a", "<i4"), ("b", "<f8")]),
])  # fmt: skip
def test_an_array_is_written_as_numpy_writes_it(values, tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        write_array(file, values)
    np.save(tmp_path / "b.npy", np.ascontiguousarray(values))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize("room", [100, 130, 927])
def test_an_array_for_which_there_is_no_room_is_an_error(room, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with (
            pytest.raises(ResourceError, match="no space left"),
            atomic_file(tmp_path / "a.npy") as file,
        ):
            write_array(file, np.arange(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
