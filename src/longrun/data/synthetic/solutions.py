r"""Worked solutions of the synthetic problems, in three modes.

* ``cot``: the running total after each operand, one line each, then a one-line summary.
* ``tir``: Python in ``<tool_call>`` tags, really executed here, its output and what is left of the
  budget fed back, then the summary.
* ``genselect``: the running total, a verdict on each candidate, and ``Judgment: i``.

A worked trace of ``cot`` for ``a = 7, b = 2, c = 5``::

    <think>
    a = 7: 07
    b = 2: 09
    c = 5: 14
    </think>
    Answer: \boxed{14}

It executes only code that it wrote itself, never a model's.
"""

import io
import random
from collections.abc import Sequence
from functools import partial

from longrun.data.synthetic.problems import MODULUS, Problem

LOWEST_SELECTED_ANSWER = 12
"""Smallest answer of a selection problem: all candidates have two digits."""
_MOST_CANDIDATES = 3


def summarise(answer: int) -> str:
    """Return the one-line summary that ends a solution."""
    return f"Answer: \\boxed{{{answer}}}"


def write_running_total(problem: Problem) -> str:
    """Return one line per operand: its name, its value, the total so far in two digits."""
    total = 0
    lines = []
    for name, value in zip(problem.names, problem.operands, strict=True):
        total += value
        lines.append(f"{name} = {value}: {total:02d}\n")
    return "".join(lines)


def solve_in_words(problem: Problem) -> str:
    """Return the ``cot`` solution of a sum."""
    return f"<think>\n{write_running_total(problem)}</think>\n{summarise(problem.answer)}"


def write_code(problem: Problem, budget: int) -> list[str]:
    """Return the code blocks of a ``tir`` solution, at most ``budget`` of them.

    A remainder takes two blocks when the budget allows it; the second uses the first's variable.
    """
    lines = [
        f"{name} = {value}" for name, value in zip(problem.names, problem.operands, strict=True)
    ]
    if problem.family.operation == "remainder" and budget > 1:
        product = problem.expression.removesuffix(f" % {MODULUS}")
        first = [*lines, f"p = {product}", "print(p)"]
        return ["\n".join(first), f"print(p % {MODULUS})"]
    return ["\n".join([*lines, f"print({problem.expression})"])]


def execute_blocks(blocks: Sequence[str]) -> list[str]:
    """Execute ``blocks`` in order with shared variables and return what each one printed."""
    outputs = []
    variables: dict[str, object] = {}
    for block in blocks:
        printed = io.StringIO()
        variables["print"] = partial(print, file=printed)
        exec(block, variables)  # only ever code that write_code made
        outputs.append(printed.getvalue())
    return outputs


def write_notice(remaining: int) -> str:
    """Return the fenced notice that follows an output: how many executions are left."""
    if remaining == 0:
        return "```system\nYou have run out of code executions!\n```\n"
    return f"```system\nRemaining code executions: {remaining}. Spend them well.\n```\n"


def solve_with_code(problem: Problem, budget: int) -> str:
    """Return the ``tir`` solution within ``budget`` executions, with the real outputs."""
    blocks = write_code(problem, budget)
    parts = ["<think>\n"]
    for index, (block, output) in enumerate(zip(blocks, execute_blocks(blocks), strict=True)):
        parts.append(f"<tool_call>\n{block}\n</tool_call>\n```output\n{output}```\n")
        parts.append(write_notice(budget - index - 1))
    return "".join([*parts, "</think>\n", summarise(problem.answer)])


def draw_candidates(problem: Problem, rng: random.Random) -> list[int]:
    """Return two or three different two-digit final answers, exactly one of them right.

    Neither place nor rank gives the right one away: both are uniform. Wrong ones are off by less
    than ten. The answer must be at least ``LOWEST_SELECTED_ANSWER``: room for two lower ones.
    """
    count = rng.randint(2, _MOST_CANDIDATES)
    num_lower = rng.randrange(count)
    lower = range(max(10, problem.answer - 9), problem.answer)
    higher = range(problem.answer + 1, problem.answer + 10)
    candidates = [
        problem.answer,
        *rng.sample(lower, num_lower),
        *rng.sample(higher, count - 1 - num_lower),
    ]
    rng.shuffle(candidates)
    return candidates


def write_selection_prompt(problem: Problem, candidates: Sequence[int]) -> str:
    """Return the complete selection prompt: instruction, problem and numbered summaries."""
    numbered = "\n".join(f"{index}: {summarise(answer)}" for index, answer in enumerate(candidates))
    return f"Judge the solutions and pick the right one.\n\n{problem.text}\n{numbered}"


def select_solution(problem: Problem, candidates: Sequence[int]) -> str:
    """Return the ``genselect`` solution: recompute, compare each candidate, judge.

    Answers are compared digit by digit, each pair side by side: whether two neighbouring digits
    are equal is a table a small model learns soon, whether two numbers are is not.
    """
    verdicts = [
        f"{index}: {_compare(answer, problem.answer)}\n" for index, answer in enumerate(candidates)
    ]
    judgment = f"Judgment: {candidates.index(problem.answer)}"
    return "".join([write_running_total(problem), *verdicts, judgment])


def _compare(candidate: int, answer: int) -> str:
    """Compare two two-digit numbers in words.

    >>> _compare(27, 24)
    '2=2 yes 7=4 no wrong'
    """
    pairs = zip(f"{candidate:02d}", f"{answer:02d}", strict=True)
    digits = " ".join(f"{one}={two} {'yes' if one == two else 'no'}" for one, two in pairs)
    return f"{digits} {'right' if candidate == answer else 'wrong'}"
