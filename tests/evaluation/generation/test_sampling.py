import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.evaluation.generation.sampling import choose_by_chance, choose_greedy


def draw(logits, uniforms, **options):
    return choose_by_chance(
        torch.tensor(logits),
        torch.tensor(uniforms, dtype=torch.float64),
        **{"temperature": 1.0, "top_p": 1.0} | options,
    ).tolist()


def test_tokens_come_as_often_as_the_model_says():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(1000, -1)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = choose_by_chance(logits, uniforms, temperature=1.0, top_p=1.0).bincount()
    assert counts.tolist() == pytest.approx([100, 200, 300, 400], abs=1)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().tolist()
    drawn = {draw([logits], [u / 100], top_p=0.69)[0] for u in range(100)}
    assert drawn == {2, 3}
    assert {draw([logits], [u / 100], top_p=0.39)[0] for u in range(100)} == {3}


@settings(max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.floats(0.01, 1.0))
def test_the_edges_of_chance_stay_inside_the_vocabulary(logits, top_p):
    for uniform in (0.0, 1.0 - 2**-53):
        assert 0 <= draw([logits], [uniform], top_p=top_p)[0] < len(logits)


@given(st.integers(0, 10_000))
def test_cold_sampling_is_greedy(seed):
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
    cold = choose_by_chance(logits, torch.tensor([0.5]), temperature=1e-4, top_p=1.0)
    assert cold.tolist() == choose_greedy(logits).tolist()


def test_a_row_does_not_see_its_neighbours():
    logits = [[1.0, 2.0, 0.5], [0.0, 0.0, 3.0], [2.0, 2.0, 2.0]]
    together = draw(logits, [0.3, 0.6, 0.9], top_p=0.95)
    assert together == [
        draw([row], [uniform], top_p=0.95)[0]
        for row, uniform in zip(logits, [0.3, 0.6, 0.9], strict=True)
    ]


def draw_from_the_sorted_row(logits, uniforms, *, temperature, top_p):
    """The definition, as it stands: sort, cut, draw."""
    probabilities, tokens = torch.softmax(logits.float() / temperature, -1).sort(
        dim=-1, descending=True, stable=True
    )
    before = probabilities.cumsum(-1) - probabilities
    cumulative = probabilities.masked_fill(before >= top_p, 0.0).double().cumsum(-1)
    index = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return tokens.gather(-1, index.clamp_(max=logits.shape[-1] - 1)).squeeze(-1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([3, 300, 20_000]),
    st.sampled_from([0.0, 0.05, 1.0, 4.0]),
    st.sampled_from([None, 0.5]),
    st.floats(0.01, 0.999),
)
def test_the_nucleus_of_the_most_likely_is_that_of_the_sorted_row(seed, size, scale, step, top_p):
    # Equal logits (step) tie across the border of what is looked at first; flat ones need it all.
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, size, generator=rng) * scale
    logits[1] *= 8.0
    logits[2, : size // 2] += 9.0
    if step is not None:
        logits = (logits / step).round() * step
    uniforms = torch.rand(4, generator=rng, dtype=torch.float64)
    options = {"temperature": 0.7, "top_p": top_p}
    expected = draw_from_the_sorted_row(logits, uniforms, **options)
    assert choose_by_chance(logits, uniforms, **options).tolist() == expected.tolist()
