import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.formats.packed_arrays import (
    ArrayShape,
    Row,
    array_paths,
    open_arrays,
    pad_row,
    padded_length,
    read_packs,
    write_arrays,
)

ONE = Row(np.array([11, 12, 13, 21, 22], np.int32), 3)
TWO = Row(np.array([31, 32, 41, 42, 43, 44], np.int32), 2)
PADS = [0] * 11


def write(prefix, packs, pad_id=0, context_parallel=1):
    sizes = [sum(padded_length(len(row.tokens), context_parallel) for row in one) for one in packs]
    shape = ArrayShape(len(packs), max(sizes), max(map(len, packs)))
    write_arrays(prefix, shape, iter(packs), pad_id, context_parallel)


def test_packs_are_those_that_the_other_program_writes(tmp_path):
    """Values measured on NeMo's own packing of the same two rows."""
    write(tmp_path / "packed_16_seed0", [[TWO, ONE]])
    ids, mask, starts = open_arrays(tmp_path / "packed_16_seed0.npy")
    assert ids.tolist() == [[31, 32, 41, 42, 43, 44, 11, 12, 13, 21, 22]]
    assert mask.astype(int).tolist() == [[0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]]
    assert starts.tolist() == [[0, 6]]


@pytest.mark.parametrize("context_parallel", [2, 4, 8])
def test_rows_for_context_parallelism_are_padded_as_there(context_parallel, tmp_path):
    write(tmp_path / "p", [[ONE, TWO]], context_parallel=context_parallel)
    ids, mask, starts = open_arrays(tmp_path / "p")
    assert ids.tolist() == [[11, 12, 13, 21, 22, *PADS, 0, 31, 32, 41, 42, 43, 44, *PADS]]
    expected = [0, 0, 1, 1, 1, *PADS, 0, 0, 1, 1, 1, 1, 1, *PADS]
    assert mask.astype(int).tolist() == [expected]
    assert starts.tolist() == [[0, 17]]


def test_short_packs_are_filled_up(tmp_path):
    write(tmp_path / "p", [[ONE, TWO], [ONE]])
    ids, mask, starts = open_arrays(tmp_path / "p")
    assert ids[1].tolist() == [11, 12, 13, 21, 22] + [-1] * 6
    assert mask[1].tolist() == [False, False] + [True] * 9
    assert starts.tolist() == [[0, 5], [0, -1]]
    assert (ids.dtype, mask.dtype, starts.dtype) == (np.int32, np.bool_, np.int32)


ROW = st.tuples(st.lists(st.integers(1, 99), min_size=2, max_size=40), st.integers(1, 40)).map(
    lambda drawn: Row(np.array(drawn[0], np.int32), min(drawn[1], len(drawn[0]) - 1))
)


@settings(deadline=None, max_examples=60)
@given(
    packs=st.lists(st.lists(ROW, min_size=1, max_size=4), min_size=1, max_size=4),
    context_parallel=st.sampled_from([1, 2, 16]),
)
def test_what_is_written_is_read_and_written_again(packs, context_parallel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    write(folder / "one", packs, 0, context_parallel)
    found = list(read_packs(folder / "one", 0, context_parallel))
    write(folder / "two", found, 0, context_parallel)
    for one, two in zip(array_paths(folder / "one"), array_paths(folder / "two"), strict=True):
        assert one.read_bytes() == two.read_bytes()
    rows = [(row.tokens.tolist(), row.prompt_tokens) for pack in packs for row in pack]
    assert [(row.tokens.tolist(), row.prompt_tokens) for pack in found for row in pack] == rows


def test_other_padding_than_was_said_is_refused(tmp_path):
    write(tmp_path / "p", [[ONE, TWO]], context_parallel=2)
    with pytest.raises(InputError, match="pack 0, row 0 is no prompt with its response padded"):
        list(read_packs(tmp_path / "p", 7, 2))
    write(tmp_path / "q", [[ONE, TWO]])
    with pytest.raises(InputError, match="mend pad_id or context_parallel"):
        list(read_packs(tmp_path / "q", 0, 2))


def test_damaged_arrays_are_named(tmp_path):
    write(tmp_path / "p", [[ONE]])
    paths = array_paths(tmp_path / "p")
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-2])
    with pytest.raises(InputError, match=r"p\.loss_mask\.npy: is damaged or cut"):
        open_arrays(tmp_path / "p")
    np.save(paths[1], np.zeros((2, 5), np.bool_))
    with pytest.raises(InputError, match=r"loss_mask\.npy: holds bool \(2, 5\)"):
        open_arrays(tmp_path / "p")
    paths[1].unlink()
    with pytest.raises(InputError, match=r"loss_mask\.npy: there is no such file"):
        open_arrays(tmp_path / "p")


def test_a_padding_token_is_never_a_target():
    row = Row(np.array([5, 6, 0, 7], np.int32), 1)
    assert pad_row(row, 0, 1)[1].tolist() == [True, True, False, True]
