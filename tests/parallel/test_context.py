"""Laws of the shares of a pack: pure functions, no process is started."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.nn.attention import Boundaries, PackedAttention
from longrun.nn.pack import PADDING, PackTensors, build_pack
from longrun.parallel.context import lay_out, tensors_of_rank
from longrun.parallel.mesh import Mesh

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=7)
SIZES = st.integers(1, 8)


def pack(lengths: list[int], seed: int = 0) -> PackTensors:
    rng = np.random.default_rng(seed)
    return build_pack(
        [
            (rng.integers(0, 99, length).astype(np.int32), rng.random(length).astype(np.float32))
            for length in lengths
        ]
    )


def shares_of(whole: PackTensors, size: int, multiple_of: int = 1) -> list[PackTensors]:
    return [
        tensors_of_rank(whole, size=size, rank=rank, multiple_of=multiple_of)
        for rank in range(size)
    ]


def test_cuts_the_worked_trace():
    first, second = shares_of(pack([8, 3]), 2)
    assert first.positions.tolist() == [0, 1, 6, 7, 2, 0]
    assert second.positions.tolist() == [2, 3, 4, 5, 0, 1]
    assert first.lengths == (2, 2, 1, 1)
    assert first.key_lengths == (2, 8, 3, 1)
    assert first.documents == (0, 0, 1, PADDING)
    assert (second.lengths, second.key_lengths, second.documents) == ((4, 2), (6, 2), (0, 1))
    assert second.cu_seqlens.tolist() == [0, 4, 6]
    assert second.cu_keys.tolist() == [0, 6, 8]
    # Rows 0-5 are the first share, 6-11 the second.
    assert second.key_rows.tolist() == [0, 1, 6, 7, 8, 9, 10, 11]


@given(lengths=LENGTHS, size=SIZES, multiple_of=st.integers(1, 4))
def test_every_token_is_in_exactly_one_share_with_all_that_belongs_to_it(
    lengths, size, multiple_of
):
    whole = pack(lengths)
    shares = shares_of(whole, size, multiple_of)
    kept = [slice(0, share.num_tokens - share.num_padding) for share in shares]

    def gathered(name: str) -> list[tuple]:
        return [getattr(s, name)[k].tolist() for s, k in zip(shares, kept, strict=True)]

    rows = [
        row
        for columns in zip(
            *map(gathered, ("tokens", "targets", "weights", "positions")), strict=True
        )
        for row in zip(*columns, strict=True)
    ]
    columns = (whole.tokens, whole.targets, whole.weights, whole.positions)
    assert sorted(rows) == sorted(zip(*(c.tolist() for c in columns), strict=True))
    assert sum(share.weight_sum() for share in shares) == pytest.approx(whole.weight_sum())


@given(lengths=LENGTHS, size=SIZES, multiple_of=st.integers(1, 4))
def test_the_keys_of_a_run_are_its_document_up_to_the_end_of_the_run(lengths, size, multiple_of):
    whole = pack(lengths)
    shares = shares_of(whole, size, multiple_of)
    tokens = torch.cat([share.tokens for share in shares])
    positions = torch.cat([share.positions for share in shares])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for share in shares:
        assert len({s.num_tokens for s in shares}) == 1
        assert share.num_tokens % multiple_of == 0
        assert sum(share.lengths) == share.num_tokens
        assert sum(share.key_lengths) == len(share.key_rows)
        for index, document in enumerate(share.documents):
            queries = slice(int(share.cu_seqlens[index]), int(share.cu_seqlens[index + 1]))
            keys = share.key_rows[int(share.cu_keys[index]) : int(share.cu_keys[index + 1])]
            if document == PADDING:
                assert tokens[keys].eq(0).all()
                assert len(keys) == share.num_padding
                continue
            last = int(share.positions[queries][-1])
            assert positions[keys].tolist() == list(range(last + 1))
            start = starts[document]
            assert tokens[keys].tolist() == whole.tokens[start : start + last + 1].tolist()


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=6), size=st.integers(1, 8))
def test_tokens_and_attention_are_balanced(lengths, size):
    shares = shares_of(pack(lengths), size)
    counts = [share.num_tokens - share.num_padding for share in shares]
    assert max(counts) - min(counts) <= 2 * len(lengths)
    pairs = [
        float((share.positions + 1)[:count].sum())
        for share, count in zip(shares, counts, strict=True)
    ]
    # At most one token at each end of both pieces of a document is out of balance.
    assert max(pairs) - min(pairs) <= 2 * sum(lengths)


@settings(max_examples=40)
@given(lengths=LENGTHS, size=SIZES, heads=st.sampled_from([(6, 3), (5, 1), (4, 4)]))
def test_attention_over_gathered_keys_is_that_of_the_whole_pack(lengths, size, heads):
    whole = pack(lengths)
    generator = torch.Generator().manual_seed(1)
    core = PackedAttention("reference", 4)
    q, k, v = (
        torch.randn(whole.num_tokens, num, 4, dtype=torch.float64, generator=generator)
        for num in (heads[0], heads[1], heads[1])
    )
    want = core(q, k, v, Boundaries.of(whole, "reference"))
    place = {}
    for document, (start, length) in enumerate(
        zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True)
    ):
        place |= {(document, position): start + position for position in range(length)}
    shares = shares_of(whole, size, 3)
    at = [torch.tensor(_places(share, place)) for share in shares]
    rows = torch.cat(at)
    for share, own in zip(shares, at, strict=True):
        keys = rows[share.key_rows]
        got = core(q[own], k[keys], v[keys], Boundaries.of(share, "reference"))
        real = share.num_tokens - share.num_padding
        torch.testing.assert_close(got[:real], want[own[:real]], rtol=1e-12, atol=1e-12)


def _places(share: PackTensors, place: dict[tuple[int, int], int]) -> list[int]:
    """Return the position in the pack of every token; 0 for padding."""
    documents = np.repeat(share.documents, share.lengths)
    return [
        place.get((int(document), int(position)), 0)
        for document, position in zip(documents, share.positions, strict=True)
    ]


def test_a_padded_pack_cannot_be_shared():
    padded = build_pack([(np.ones(3, np.int32), np.ones(3, np.float32))], multiple_of=2)
    with pytest.raises(ValueError, match="without padding"):
        tensors_of_rank(padded, size=2, rank=0)


def test_a_pack_is_laid_out_for_the_place_of_a_rank():
    documents = [(np.arange(9, dtype=np.int32), np.ones(9, np.float32))]
    cpu = torch.device("cpu")
    assert lay_out(documents, Mesh(0, 1, cpu, "none")).lengths == (9,)
    assert lay_out(documents, Mesh(1, 2, cpu, "gloo", tensor_size=2)).lengths == (9, 1)
    shared = lay_out(documents, Mesh(3, 4, cpu, "gloo", tensor_size=2, context_size=2))
    assert shared.positions.tolist() == [2, 3, 4, 5, 0, 1]
    assert shared.num_padding == 2
