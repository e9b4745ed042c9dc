from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.evaluation.scores.at_k import best_at_k, choose_ks, majority_at_k, pass_at_k

votes = st.lists(st.sampled_from(["right", "x", "y", "z", None]), min_size=1, max_size=8)


def vote(answers):
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts or counts["right"] < max(counts.values()):
        return 0.0
    return 1 / list(counts.values()).count(counts["right"])


@given(votes)
@settings(max_examples=60)
def test_every_figure_is_the_mean_over_all_choices_of_k(answers):
    counts = Counter(answers)
    right, silent = counts.pop("right", 0), counts.pop(None, 0)
    ks = list(range(1, len(answers) + 1))
    majorities = majority_at_k(right, list(counts.values()), silent, ks)
    for k, majority in zip(ks, majorities, strict=True):
        chosen = list(combinations(answers, k))
        assert majority == pytest.approx(fmean(map(vote, chosen)))
        passed = fmean("right" in some for some in chosen)
        assert pass_at_k(len(answers), right, k) == pytest.approx(passed)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7))
@settings(max_examples=60)
def test_the_best_of_k_is_the_mean_over_all_choices_and_ties(scored):
    def best(some):
        top = max(reward for reward, _ in some)
        return fmean(right for reward, right in some if reward == top)

    for k in range(1, len(scored) + 1):
        expected = fmean(map(best, combinations(scored, k)))
        assert best_at_k(scored, k) == pytest.approx(expected)


def test_powers_of_two_and_all_samples_are_shown():
    assert choose_ks(1) == []
    assert choose_ks(2) == [1, 2]
    assert choose_ks(8) == [1, 2, 4, 8]
    assert choose_ks(9) == [1, 2, 4, 8, 9]


def test_sixty_four_different_answers_are_counted_in_time():
    (credit,) = majority_at_k(2, [1] * 62, 0, [64])
    assert credit == 1.0
    half = majority_at_k(32, [32], 0, [64, 1])
    assert half == [0.5, 0.5]
