import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.formats.text.shared_words import SharedWords, words_of

PROBLEM = r"Find the sum of all integer bases $b>9$ for which $17_b$ is a divisor of $97_b.$"
WORDS = st.lists(st.sampled_from("abcde"), max_size=12)


def kinds(problem, text, ngram=6):
    return [(one.kind, one.overlap) for one in SharedWords([problem], ngram).find(text)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (PROBLEM, "same text"),
        (PROBLEM.upper().replace("$", " "), "same text"),
        (PROBLEM.replace("$", ""), "same text"),
        (f"Solve this. {PROBLEM} Show your work.", "all words"),
        (PROBLEM.replace(">", "<"), "all words"),
        (PROBLEM.replace("divisor", "multiple"), "n words"),
        ("For which bases is 17 a divisor of 97? Find the sum of all of them.", None),
        ("", None),
    ],
)
def test_what_is_found_has_a_strength(text, kind):
    found = kinds(PROBLEM, text)
    assert [one for one, _ in found] == ([] if kind is None else [kind])
    assert SharedWords([PROBLEM], 6).are_in(text) == bool(found)


def test_the_overlap_is_the_share_of_the_sequences():
    # 7 sequences of 6 among 12 words; the text holds the first 8 words: 3 of them.
    problem = "one two three four five six seven eight nine ten eleven twelve"
    assert kinds(problem, " ".join(problem.split()[:8])) == [("n words", 3 / 7)]


def test_a_short_problem_must_occur_whole():
    assert kinds("What is 1+1?", "What is 1+2?") == []
    assert kinds("What is 1+1?", "Now, what is 1+1 in binary?") == [("all words", 1.0)]
    assert kinds("???", "???") == []


def test_every_problem_is_told_apart():
    found = SharedWords(["a b c", "b c d", "x y z"], 3).find("a b c d")
    assert [(one.problem, one.kind) for one in found] == [(0, "all words"), (1, "all words")]


@given(WORDS, WORDS, st.integers(1, 4))
def test_it_finds_what_comparing_every_stretch_finds(problem, text, ngram):
    size = min(ngram, len(problem))
    ours = {tuple(problem[begin:][:size]) for begin in range(len(problem) - size + 1)}
    theirs = {tuple(text[begin:][:size]) for begin in range(len(text) - size + 1)}
    expected = len(ours & theirs) / len(ours) if size else 0.0
    index = SharedWords([" ".join(problem)], ngram)
    found = index.find(" ".join(text))
    assert [one.overlap for one in found] == ([expected] if expected else [])
    assert index.are_in(" ".join(text)) == bool(found)


@given(st.text(max_size=40))
def test_a_text_with_a_word_is_the_same_text_as_itself(text):
    found = kinds(text, text, ngram=3)
    assert found == ([("same text", 1.0)] if words_of(text) else [])
