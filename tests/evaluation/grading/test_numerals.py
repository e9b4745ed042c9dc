from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.evaluation.grading.numerals import read_number, same_number, strip_label


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"),
        ("-1,234.50", "-1234.5"),
        (r"\$18", "18"),
        ("$1080.00", "1080"),
        ("\u20ac77", "77"),
        ("18 apples", "18"),
        (r"12 \, \text{cm}^2", "12"),
        (r"90^\circ", "90"),
        ("3/4", "3/4"),
        (r"\dfrac{3}{4}", "3/4"),
        (r"-\frac{3}{4}", "-3/4"),
        (r"\frac{-3}{4}", "-3/4"),
        (r"\frac{12}{5,525}", "12/5525"),
        (r"1\frac12", "3/2"),
        ("1 1/2", "3/2"),
        (".5", "1/2"),
        ("5.", "5"),
        ("1{,}234", "1234"),
        (r"10\,000", "10000"),
    ],
)
def test_numbers_are_read_in_every_usual_spelling(text, value):
    assert read_number(text).value == Fraction(value)


@pytest.mark.parametrize(
    "text",
    ["-", "x", "2x", r"2\pi", "x=5", "1,2", "(1,234)", "1/0", "6:30", "1e5", r"1+\frac12"],
)
def test_an_expression_is_not_just_a_number(text):
    assert read_number(text) is None


@pytest.mark.parametrize("text", ["__import__('os')", "5^3", "5^{2}", "10_2", "3!"])
def test_nothing_is_computed(text):
    assert read_number(text) is None


@pytest.mark.parametrize("text", ["", "2 pi", "2 or 3", "10 million", "1 2", "9" * 300])
def test_what_is_not_just_a_number_is_left_alone(text):
    assert read_number(text) is None


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_survives_writing_and_reading(value):
    sign = "-" if value < 0 else ""
    written = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    assert read_number(written).value == value
    assert read_number(f"{value.numerator}/{value.denominator}").value == value


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_change_nothing(value):
    assert same_number(read_number(str(value)), read_number(f"{value:,}"))


@pytest.mark.parametrize(
    ("expected", "given_", "same"),
    [
        ("1/2", "0.5", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.3333", False),
        ("0.3", "0.30000000000000004", True),
        ("4", "3.999999", False),
        ("1000000000", "1000000000.5", False),
        (r"50\%", "50", True),
        (r"50\%", "0.5", True),
        ("0.5", "50%", True),
        ("0.5", "50", False),
        ("5", "-5", False),
    ],
)
def test_equality_is_exact_but_for_percent_and_rounding_noise(expected, given_, same):
    assert same_number(read_number(expected), read_number(given_)) is same


def test_only_a_leading_name_is_taken_off():
    assert strip_label(r"\text{Total cost} = \$18") == "$18"
    assert strip_label("x = 5") == "5"
    assert strip_label("2x = 3") == "2x = 3"
