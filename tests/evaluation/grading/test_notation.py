import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.evaluation.grading.notation import as_latex, clean, normalise, strip_base


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"\left(3,\frac{\pi}{2}\right)", r"(3, \frac{\pi}{2})"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"11\sqrt2", r"11\sqrt{2}"),
        ("$x = 5$.", "x=5"),
        (r"\( x+1 \)", "x + 1"),
        (r"90^\circ", r"90^{\circ}"),
        ("9\u03c0", r"9\pi"),
        ("\u22125", "-5"),
        ("x\u00b2", "x^2"),
        (r"10,\!080", "10{,}080"),
        ("a\u200b\u202eb", "ab"),
        (r"a \leq b", r"a\le b"),
    ],
)
def test_spellings_of_the_same_answer_become_one(one, two):
    assert normalise(one) == normalise(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("1 1/2", "11/2"),
        ("x^2", "x2"),
        ("1,2", "12"),
        ("(1,234)", "1234"),
        ("-5", "5"),
        ("A", "a"),
        ("1\u00bd", "11/2"),
        (r"\{1\}", "1"),
    ],
)
def test_different_answers_stay_different(one, two):
    assert normalise(one) != normalise(two)


@given(st.text(max_size=80))
def test_cleaning_takes_any_text_and_has_nothing_left_to_do_twice_on_plain_words(text):
    assert isinstance(clean(text), str)
    assert normalise("apples and pears") == "apples and pears"


def test_what_programs_print_gets_its_latex_name():
    assert as_latex("sqrt(3)*pi/2") == r"\sqrt{3}\cdot \pi/2"
    assert as_latex(r"\sqrt{3}\pi") == r"\sqrt{3}\pi"
    assert as_latex("pick") == "pick"


def test_a_base_is_told_from_an_index_of_a_name():
    assert strip_base("1011_2") == ("1011", True)
    assert strip_base("2A_{16}") == ("2A", True)
    assert strip_base("x_2") == ("x_2", False)
