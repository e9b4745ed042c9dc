"""Generated training records and benchmarks that a tiny model can learn on a laptop's CPU.

The records have the columns of OpenMathReasoning, so that they pass through the same preparation,
filters and packing as real data. Two columns mean something else here: ``pass_rate_72b_tir`` is
the pass rate of a simulated noisy solver, and ``used_in_kaggle`` is a coin toss. The same seed
gives the same bytes. It never imports torch and never executes a model's code.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from longrun.data.synthetic.problems import (
    CODE_FAMILIES,
    SUM_FAMILIES,
    Problem,
    draw_pass_rate,
    draw_problems,
)
from longrun.data.synthetic.solutions import (
    LOWEST_SELECTED_ANSWER,
    draw_candidates,
    select_solution,
    solve_in_words,
    solve_with_code,
    write_selection_prompt,
)
from longrun.errors import ConfigError

Mode = Literal["cot", "tir", "genselect"]
Row = dict[str, object]
MODES: tuple[Mode, ...] = ("cot", "tir", "genselect")
MOST_BENCHMARK_PROBLEMS = 500
"""Rows of one benchmark: about 800 problems of the smallest mode are held out."""

USER_PROMPTS: Mapping[Mode, str] = {
    "cot": "Solve the problem. Put the answer in \\boxed{{}}.\n\n{problem}",
    "tir": (
        "Solve the problem with at most {total_code_executions} Python executions."
        " Put the answer in \\boxed{{}}.\n\n{problem}"
    ),
    "genselect": "{problem}",
}
"""User messages for ``str.format``; short, because prompts dominate the tokens of small tasks."""


def generate_records(
    mode: Mode, *, num_records: int, seed: int, most_code_executions: int = 3
) -> Iterator[Row]:
    """Yield training records of one mode, in the columns of OpenMathReasoning.

    The code budget of a ``tir`` record is uniform in 1 to ``most_code_executions``; its solution
    names it as real ones do, by the executions that remain after the first.
    """
    rng = random.Random(f"{seed} {mode} records")
    for problem in itertools.islice(_draw(mode, rng, held_out=False), num_records):
        text, solution = _work_out(mode, problem, rng, most_code_executions)
        yield {
            "problem": text,
            "generated_solution": solution,
            "generation_model": "synthetic",
            "problem_type": "has_answer_extracted",
            "expected_answer": str(problem.answer),
            "problem_source": problem.family.source,
            "inference_mode": mode,
            "pass_rate_72b_tir": draw_pass_rate(problem, rng),
            "used_in_kaggle": rng.random() < 0.5,
        }


def generate_benchmark(
    mode: Mode, *, num_problems: int, seed: int, most_code_executions: int = 3
) -> Iterator[Row]:
    """Yield different benchmark rows of one mode; no training record has their operands.

    ``total_code_executions`` stands in ``tir`` rows, ``candidates`` (final answers in the order of
    the prompt) in ``genselect`` rows.

    Raises:
        ConfigError: ``num_problems`` is above ``MOST_BENCHMARK_PROBLEMS``.
    """
    if num_problems > MOST_BENCHMARK_PROBLEMS:
        raise ConfigError(
            f"a synthetic benchmark has at most {MOST_BENCHMARK_PROBLEMS} problems a mode, not"
            f" {num_problems}; set num_benchmark_problems to a smaller number"
        )
    rng = random.Random(f"{seed} {mode} benchmark")
    problems = _without_repeats(_draw(mode, rng, held_out=True))
    for index, problem in enumerate(itertools.islice(problems, num_problems)):
        row: Row = {
            "id": f"{mode}-{index}",
            "problem": problem.text,
            "expected_answer": str(problem.answer),
            "mode": mode,
            "source": problem.family.source,
        }
        if mode == "tir":
            row["total_code_executions"] = rng.randint(1, most_code_executions)
        if mode == "genselect":
            candidates = draw_candidates(problem, rng)
            row["problem"] = write_selection_prompt(problem, candidates)
            row["candidates"] = [str(candidate) for candidate in candidates]
        yield row


def _draw(mode: Mode, rng: random.Random, *, held_out: bool) -> Iterator[Problem]:
    families = CODE_FAMILIES if mode == "tir" else SUM_FAMILIES
    problems = draw_problems(families, rng, held_out=held_out)
    if mode == "genselect":
        return (problem for problem in problems if problem.answer >= LOWEST_SELECTED_ANSWER)
    return problems


def _work_out(
    mode: Mode, problem: Problem, rng: random.Random, most_code_executions: int
) -> tuple[str, str]:
    """Return the record's ``problem`` and ``generated_solution``."""
    if mode == "cot":
        return problem.text, solve_in_words(problem)
    if mode == "tir":
        return problem.text, solve_with_code(problem, rng.randint(1, most_code_executions))
    candidates = draw_candidates(problem, rng)
    return write_selection_prompt(problem, candidates), select_solution(problem, candidates)


def _without_repeats(problems: Iterable[Problem]) -> Iterator[Problem]:
    seen = set()
    for problem in problems:
        if problem not in seen:
            seen.add(problem)
            yield problem
