"""Laws of ``longrun.nn.pack``."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.nn.pack import build_pack
from longrun.nn.weighted_document import WeightedDocument


def a_document(length: int) -> st.SearchStrategy[WeightedDocument]:
    tokens = st.lists(st.integers(0, 99), min_size=length, max_size=length)
    weights = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=length, max_size=length)
    return st.tuples(
        tokens.map(lambda values: np.array(values, np.int32)),
        weights.map(lambda values: np.array(values, np.float32)),
    )


DOCUMENTS = st.lists(st.integers(1, 9).flatmap(a_document), min_size=1, max_size=6)


def test_lays_out_the_worked_trace():
    first = np.array([5, 6, 7], np.int32), np.array([0, 0, 1], np.float32)
    second = np.array([8, 9], np.int32), np.array([1, 1], np.float32)
    layout = build_pack([first, second], multiple_of=4)
    assert layout.tokens.tolist() == [5, 6, 7, 8, 9, 0, 0, 0]
    assert layout.targets.tolist() == [0, 7, 0, 9, 0, 0, 0, 0]
    assert layout.weights.tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    assert layout.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert layout.cu_seqlens.tolist() == [0, 3, 5, 8]
    assert layout.lengths == (3, 2, 3)
    assert layout.num_padding == 3
    assert layout.num_tokens == 8
    assert layout.weight_sum() == 2.0


@given(documents=DOCUMENTS, multiple_of=st.integers(1, 16))
def test_keeps_every_token_and_every_weight_but_the_first_of_each_document(documents, multiple_of):
    layout = build_pack(documents, multiple_of=multiple_of)
    start = 0
    for tokens, weights in documents:
        end = start + len(tokens)
        assert layout.tokens[start:end].tolist() == tokens.tolist()
        assert layout.weights[start : end - 1].tolist() == weights[1:].tolist()
        supervised = weights[1:] > 0
        assert (
            layout.targets[start : end - 1][supervised].tolist() == tokens[1:][supervised].tolist()
        )
        assert layout.positions[start:end].tolist() == list(range(len(tokens)))
        assert layout.weights[end - 1] == 0
        start = end
    assert start + layout.num_padding == layout.num_tokens
    assert layout.weight_sum() == sum(float(weights[1:].sum()) for _, weights in documents)


@given(documents=DOCUMENTS, multiple_of=st.integers(1, 16))
def test_agrees_with_itself_about_boundaries(documents, multiple_of):
    layout = build_pack(documents, multiple_of=multiple_of)
    assert layout.num_tokens % multiple_of == 0
    assert layout.num_padding < multiple_of
    assert len(layout.lengths) == len(documents) + (layout.num_padding > 0)
    assert np.diff(layout.cu_seqlens.numpy()).tolist() == list(layout.lengths)
    assert (layout.positions == 0).nonzero()[:, 0].tolist() == layout.cu_seqlens[:-1].tolist()
    assert (layout.targets[layout.weights == 0] == 0).all()
    vectors = layout.tokens, layout.targets, layout.weights, layout.positions
    assert {vector.shape for vector in vectors} == {(layout.num_tokens,)}


@given(documents=DOCUMENTS, multiple_of=st.integers(1, 16))
def test_never_supervises_padding(documents, multiple_of):
    layout = build_pack(documents, multiple_of=multiple_of)
    padding = slice(layout.num_tokens - layout.num_padding, None)
    assert not layout.weights[padding].any()
    assert not layout.tokens[padding].any()


def test_has_the_stated_dtypes_and_keeps_them_when_it_moves():
    layout = build_pack([(np.arange(3, dtype=np.int32), np.ones(3, np.float32))]).to("meta")
    assert layout.tokens.dtype == layout.targets.dtype == layout.positions.dtype == torch.int64
    assert layout.weights.dtype == torch.float32
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.tokens.device == layout.cu_seqlens.device == torch.device("meta")
    assert layout.lengths == (3,)


def two(length_of_tokens: int, length_of_weights: int) -> WeightedDocument:
    return np.zeros(length_of_tokens, np.int32), np.ones(length_of_weights, np.float32)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "at least one document"),
        ([two(2, 2), two(0, 0)], "document 1 has no tokens"),
        ([two(2, 3)], "document 0: tokens .* one length"),
        ([(np.zeros((2, 2), np.int32), np.ones((2, 2), np.float32))], "document 0: tokens"),
        ([(np.zeros(2, np.int32), np.array([1, -1], np.float32))], "finite and not negative"),
        ([(np.zeros(2, np.int32), np.array([1, np.nan], np.float32))], "finite and not negative"),
        ([(np.array([3, -100], np.int32), np.ones(2, np.float32))], "whole numbers from 0"),
    ],
)
def test_refuses_what_is_no_pack(documents, message):
    with pytest.raises(InputError, match=message):
        build_pack(documents)


def test_refuses_a_multiple_below_one():
    with pytest.raises(ValueError, match="multiple_of is 0"):
        build_pack([two(2, 2)], multiple_of=0)
