"""Agreement of grades with published labels on recorded solutions.

    python bench/grading.py FILE... [--list disagreements.jsonl] [--limit N] [--without plain]

Each FILE is JSONL with ``generated_solution``, ``expected_answer`` and ``_correct``, the verdict of
the authors' own grader. Three graders read the same solutions:

* ``longrun``: our extraction and grades;
* ``math-verify``: the plain library, which finds the answer in the text itself;
* ``exact``: our extraction, equal strings.

Prints one JSON line per file and grader: agreement, right answers refused, wrong ones accepted,
and CPU seconds of this process and its children. ``--list`` writes every disagreement of
``longrun``, to be judged by hand.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from longrun.evaluation.grading.answers import extract_boxed
from longrun.evaluation.grading.grade import Grader

Rows = Sequence[dict[str, Any]]
Verdicts = list[tuple[bool, str, str | None]]
"""Right or not, why, and the answer that was found."""


def grade_longrun(rows: Rows) -> Verdicts:
    answers = [extract_boxed(row["generated_solution"]) for row in rows]
    with Grader() as grader:
        pairs = [(str(row["expected_answer"]), one) for row, one in zip(rows, answers, strict=True)]
        judged = grader.grade(pairs)
    return [
        (judgement.verdict == "right", f"{judgement.verdict}: {judgement.why}", answer)
        for judgement, answer in zip(judged, answers, strict=True)
    ]


def grade_plain(rows: Rows) -> Verdicts:
    verdicts: Verdicts = []
    for row in rows:
        expected = parse(f"${row['expected_answer']}$")
        found = parse(row["generated_solution"])
        verdicts.append((bool(verify(expected, found)), "", str(found[-1:])))
    return verdicts


def grade_exact(rows: Rows) -> Verdicts:
    answers = [extract_boxed(row["generated_solution"]) for row in rows]
    return [
        (answer == str(row["expected_answer"]), "", answer)
        for row, answer in zip(rows, answers, strict=True)
    ]


GRADERS: dict[str, Callable[[Rows], Verdicts]] = {
    "longrun": grade_longrun,
    "math-verify": grade_plain,
    "exact": grade_exact,
}


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--list", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    options = parser.parse_args()
    listed = []
    for path in options.files:
        lines = path.read_text().splitlines()[: options.limit]
        rows = [row for row in map(json.loads, lines) if row.get("_correct") is not None]
        for name, grade in GRADERS.items():
            if name in options.without:
                continue
            began, wall = cpu_seconds(), time.perf_counter()
            verdicts = grade(rows)
            labels = [bool(row["_correct"]) for row in rows]
            pairs = list(zip(labels, (right for right, _, _ in verdicts), strict=True))
            print(
                json.dumps(
                    {
                        "file": f"{path.parent.name}/{path.name}",
                        "grader": name,
                        "solutions": len(rows),
                        "agreement": round(sum(a == b for a, b in pairs) / len(pairs), 5),
                        "right_refused": pairs.count((True, False)),
                        "wrong_accepted": pairs.count((False, True)),
                        "cpu_seconds": round(cpu_seconds() - began, 1),
                        "wall_seconds": round(time.perf_counter() - wall, 1),
                    }
                ),
                flush=True,
            )
            if name == "longrun":
                listed += [
                    {
                        "file": str(path),
                        "problem": row["problem"],
                        "expected": row["expected_answer"],
                        "answer": answer,
                        "label": label,
                        "why": why,
                        "theirs": row.get("_predicted_answer"),
                        "end": row["generated_solution"][-300:],
                    }
                    for row, label, (right, why, answer) in zip(rows, labels, verdicts, strict=True)
                    if label != right
                ]
    if options.list:
        options.list.write_text("".join(json.dumps(row) + "\n" for row in listed))


if __name__ == "__main__":
    main()
