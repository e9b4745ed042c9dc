import os

import pytest

from longrun.evaluation.grading import grade as module
from longrun.evaluation.grading.grade import Grader, judge_by_text_and_number


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize(
    ("expected", "given", "verdict"),
    [
        ("42", "42", "right"),
        ("42", "043", "wrong"),
        ("73", "073", "right"),
        ("1011_2", "1011", "right"),
        ("1011_2", "1011_3", None),
        ("A", "a", "wrong"),
        ("A", "(A)", "right"),
        ("B", r"\textbf{(B)}\ 12", "right"),
        ("B", "C. 12", "wrong"),
        ("A", "A + B", None),
        ("even", r"\text{Even}", "right"),
        ("DNE", r"\text{does not exist}", "right"),
        ("xy", "yx", None),
        ("5", "x = 5", "right"),
        ("5", r"n \equiv 5 \pmod{17}", "right"),
        ("5", r"n \equiv 6 \pmod{17}", "wrong"),
        ("y = 5", "x = 5", None),
        ("3", "9" * 5000, "wrong"),
    ],
)
def test_text_and_numbers_decide_without_computing(expected, given, verdict):
    judgement = judge_by_text_and_number(expected, given)
    assert (judgement.verdict if judgement else None) == verdict


@pytest.mark.parametrize(
    ("expected", "given", "verdict"),
    [
        ("x+1", "1+x", "right"),
        (r"2\sqrt{3}", r"\sqrt{12}", "right"),
        (r"\frac{\pi}{4}", "pi/4", "right"),
        (r"\{1,2\}", "2,1", "right"),
        ("[0,1)", "[0,1]", "wrong"),
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty) \cup (-\infty, 2)", "right"),
        ("1, 2", "x = 2, x = 1", "right"),
        ("1, 2", "1, 2, 3", "wrong"),
        ("(1, 2)", "(2, 1)", "wrong"),
        (r"\pm 3", "3, -3", "right"),
        ("50\\%", "0.5", "right"),
        ("10", r"10 \text{ cm}", "right"),
        (r"6.02 \times 10^{23}", "6.02e23", "right"),
        (
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            "\\begin{bmatrix}\n1 \\\\\n2\n\\end{bmatrix}",
            "right",
        ),
        (
            r"\begin{pmatrix}1\-2\end{pmatrix}",
            r"\mathbf{M} = \begin{pmatrix} 1 \\ -2 \\ \end{pmatrix}",
            "right",
        ),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", "wrong"),
        ("y = 2x + 1", "2x + 1", "right"),
        (r"\frac{10}{11}", "0.9091", "wrong"),
        (r"\pi", "3.14159", "wrong"),
        ("5", "five", "wrong"),
        ("5", r"\frac{5", "wrong"),
        ("A", "B", "wrong"),
        ("x", "", "wrong"),
        ("5", None, "no answer"),
    ],
)
def test_symbols_decide_where_text_cannot(grader, expected, given, verdict):
    assert grader.grade([(expected, given)])[0].verdict == verdict


@pytest.mark.parametrize("given", ["__import__('os').system('touch {}')", "print(open('{}','w'))"])
def test_nothing_in_an_answer_is_evaluated(grader, tmp_path, given):
    mark = tmp_path / "touched"
    assert grader.grade([("5", given.format(mark))])[0].verdict == "wrong"
    assert not mark.exists()


def test_an_endless_comparison_is_timed_out_and_the_next_one_works(monkeypatch):
    monkeypatch.setattr(module, "CPU_SECONDS", 2)
    with Grader() as grader:
        tower = grader.grade([("3", "9^{9^{9^{9^9}}}")])[0]
        assert tower.verdict == "timed out"
        assert "2 CPU seconds" in tower.why
        assert grader.grade([("x+1", "1+x")])[0].verdict == "right"


def test_every_worker_ends_with_the_grader():
    with Grader() as grader:
        grader.grade([("x+1", "1+x")])
        pids = [worker._process.pid for worker in grader._workers if worker._process]
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_verdicts_come_in_the_order_of_the_pairs(grader):
    pairs = [("1", "2"), ("x+1", "1+x"), ("1", None), ("1", "1"), ("1", "2")]
    verdicts = [judgement.verdict for judgement in grader.grade(pairs)]
    assert verdicts == ["wrong", "right", "no answer", "right", "wrong"]
