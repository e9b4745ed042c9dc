"""Formulas as MathML: right ones drawn, wrong and hostile ones as they were written."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from longrun.report.mathematics import MOST_CHARS, draw_formula, show_answer, show_mathematics

HOSTILE = [
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{<img src=x onerror=alert(1)>}$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\style{background:url(http://a)}{x}$",
    r"$\class{sample}{x}$",
    r"$\text{</math><script>alert(1)</script>}$",
    "<b>$x$</b>",
]
PIECES = [
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "{", "}", "^", "_", "&", "\\\\", "<", ">", '"', "5"),
    *("\\frac", "\\sqrt[3]", "\\text{", "\\left(", "\\right)", "\\begin{array}{c}", "\\href{a}"),
    *("\\end{array}", "x", " ", "\\color{red}", "\\style{a}", "\\unknown", "</math>", "\\overline"),
]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.names = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.names += [name for name, _ in attrs]


def tags(shown):
    parser = Tags()
    parser.feed(shown)
    return parser


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"Compute $a+b$ and \(c\) given \[x = \frac{1}{2}.\]", 3),
        ("$$x^2$$ and $y$", 2),
        ("It costs $5, then $6, and $80,000 in all.", 0),
        ("A house for $80,000 and $50,000 in repairs, at $x$ percent.", 1),
        (r"Costs \$5 and \$6.", 0),
        ("no formula", 0),
        ("$ x $", 0),
    ],
)
def test_formulas_are_told_from_dollars(text, formulas):
    assert show_mathematics(text).count("<math") == formulas


def test_the_text_around_formulas_stays():
    shown = show_mathematics(r"If $x<y$ & $\frac{1}{2}$ hold, then?")
    assert re.sub(r"<math.*?</math>", "M", shown) == "If M &amp; M hold, then?"
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_formulas_stay_text(text):
    found = tags(show_mathematics(text))
    assert set(found.tags) <= {"math", "mrow", "mi"}
    assert set(found.names) <= {"display"}


@pytest.mark.parametrize("text", [r"$\frac{1$", r"$\nosuch{x}$", "$x^$", r"$\begin{matrix} 1$"])
def test_what_does_not_come_out_whole_stays_as_it_was_written(text):
    assert show_mathematics(text) == escape(text)


def test_answers_keep_their_source():
    assert show_answer("42") == "<code>42</code>"
    shown = show_answer(r"\frac{6}{5}")
    assert shown.startswith("<math")
    assert shown.endswith(r"<small><code>\frac{6}{5}</code></small>")
    assert show_answer(r"\frac{<b>") == r"<code>\frac{&lt;b&gt;</code>"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_nothing_but_mathml_comes_out_of_any_text(text):
    found = tags(show_mathematics(text)).tags + tags(show_answer(text)).tags
    assert all(tag.startswith("m") or tag in ("code", "small") for tag in found)


@pytest.mark.parametrize(
    "text", ["{" * 500, "$" * 3000, "^" * 500, "\\frac" * 100, "\\(" * 1999, "$x" * 1999]
)
def test_long_nonsense_takes_no_time(text):
    began = time.process_time()
    show_mathematics(text[:MOST_CHARS])
    draw_formula(text)
    assert time.process_time() - began < 2
