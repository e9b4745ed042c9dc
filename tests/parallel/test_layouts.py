"""Which combinations of axes are legal, what is said about the others and what is nearest."""

from dataclasses import replace
from math import gcd
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.errors import ConfigError
from longrun.nn.architecture import Arch
from longrun.parallel.layouts import Layout, check_layout, nearest, obstacle
from longrun.plan.models import find_model

MODELS = {name: find_model(name) for name in ("1.5b", "7b", "14b", "32b")}
SIZES = st.integers(1, 12)


@st.composite
def arches(draw: st.DrawFn) -> Arch:
    kv_heads = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    return replace(
        MODELS["7b"],
        num_kv_heads=kv_heads,
        num_heads=kv_heads * draw(st.sampled_from([1, 2, 3, 5, 7])),
        intermediate_size=draw(st.sampled_from([24, 40, 18944])),
        vocab_size=draw(st.sampled_from([61, 120, 152064])),
    )


@st.composite
def layouts(draw: st.DrawFn, legal_product: bool = False) -> Layout:
    tensor, context = draw(SIZES), draw(SIZES)
    product = tensor * context * draw(st.integers(1, 6))
    return Layout(
        num_ranks=product if legal_product else draw(st.integers(1, 64)),
        tensor=tensor,
        context=context,
        sharding=draw(st.sampled_from(["replicate", "states", "full"])),
        shard_size=draw(st.one_of(st.none(), st.integers(1, 24))),
    )


@st.composite
def legal(draw: st.DrawFn) -> tuple[Layout, Arch]:
    arch = draw(arches())
    common = gcd(arch.num_heads, arch.num_kv_heads, arch.intermediate_size, arch.vocab_size)
    tensor = draw(st.sampled_from([size for size in range(1, common + 1) if common % size == 0]))
    context, data = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    sharding = draw(st.sampled_from(["replicate", "states", "full"]))
    sharers = data * context
    sizes = [None, *(size for size in range(1, sharers + 1) if sharers % size == 0)]
    layout = Layout(
        num_ranks=data * context * tensor,
        tensor=tensor,
        context=context,
        sharding=sharding,
        shard_size=None if sharding == "replicate" else draw(st.sampled_from(sizes)),
    )
    return layout, arch


@given(legal())
def test_the_axes_of_a_legal_layout_multiply_to_its_ranks(pair):
    layout, arch = pair
    assert obstacle(layout, arch) is None
    assert layout.data * layout.context * layout.tensor == layout.num_ranks
    assert layout.shards * layout.replicas == layout.data * layout.context
    for size in (arch.num_heads, arch.num_kv_heads, arch.intermediate_size, arch.vocab_size):
        assert size % layout.tensor == 0


@given(layouts(legal_product=True), arches())
def test_whatever_divides_everything_is_legal(layout, arch):
    divides = all(
        size % layout.tensor == 0
        for size in (arch.num_heads, arch.num_kv_heads, arch.intermediate_size, arch.vocab_size)
    )
    size, sharers = layout.shard_size, layout.data * layout.context
    shards = size is None or (layout.sharding != "replicate" and sharers % size == 0)
    assert (obstacle(layout, arch) is None) == (divides and shards)


@given(layouts(), arches())
def test_the_nearest_layout_is_legal_and_has_the_same_ranks_and_sharding(layout, arch):
    near = nearest(layout, arch)
    assert obstacle(near, arch) is None
    assert (near.num_ranks, near.sharding) == (layout.num_ranks, layout.sharding)


@given(legal())
def test_a_legal_layout_is_its_own_nearest(pair):
    assert nearest(*pair) == pair[0]


@pytest.mark.parametrize(
    ("model", "tensor", "context", "data"),
    [("1.5b", 1, 2, 256), ("7b", 4, 2, 64), ("14b", 8, 2, 32), ("32b", 8, 4, 16)],
)
@pytest.mark.parametrize("sharding", ["replicate", "states", "full"])
def test_the_layouts_of_the_reference_are_legal(model, tensor, context, data, sharding):
    layout = Layout(num_ranks=512, tensor=tensor, context=context, sharding=sharding)
    check_layout(layout, MODELS[model], "train")
    assert layout.data == data


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"tensor": 4},
        "tensor 4 does not divide the 2 key-value heads",
        "data 32 x context 1 x tensor 2",
    ),
    (
        {"tensor": 2, "context": 3},
        "tensor 2 x context 3 do not divide 64 ranks",
        "data 8 x context 4 x tensor 2",
    ),
    (
        {"sharding": "replicate", "shard_size": 8},
        "shard_size has no effect with sharding replicate",
        "data 64 x context 1 x tensor 1, replicate",
    ),
    (
        {"sharding": "full", "context": 4, "shard_size": 6},
        "shard_size 6 does not divide 64 data x context ranks",
        "data 16 x context 4 x tensor 1, full over 64",
    ),
]


@pytest.mark.parametrize(("settings", "reason", "near"), REFUSED)
def test_a_refusal_names_the_reason_and_the_nearest_legal_layout(settings, reason, near):
    layout = Layout(num_ranks=64, **settings)
    with pytest.raises(ConfigError) as caught:
        check_layout(layout, MODELS["1.5b"], "train")
    assert str(caught.value).startswith(f"train: {reason}; the nearest legal layout is {near}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["intermediate_size", "vocab_size"])
def test_a_matrix_that_cannot_be_cut_is_named(field):
    arch = replace(MODELS["14b"], **{field: 13821})
    layout = Layout(num_ranks=8, tensor=8)
    assert obstacle(layout, arch) == f"tensor 8 does not divide {field} 13821"


def test_heads_that_cannot_be_cut_are_named_even_when_the_key_value_heads_can():
    arch = replace(MODELS["7b"], num_heads=30, num_kv_heads=4)
    assert obstacle(Layout(num_ranks=4, tensor=4), arch) == (
        "tensor 4 does not divide the 30 query heads"
    )


def test_a_copy_may_be_repeated_over_groups_of_ranks():
    layout = Layout(num_ranks=64, tensor=2, context=2, sharding="full", shard_size=8)
    assert (layout.data, layout.shards, layout.replicas) == (16, 8, 4)
    assert str(layout) == "data 16 x context 2 x tensor 2, full over 8"
    assert str(Layout(num_ranks=4)) == "data 4 x context 1 x tensor 1, replicate"
