"""Stage ``evaluate``: grade the predictions of ``generate`` and summarise them with error bars.

Writes ``grades/LABEL/BENCHMARK.jsonl``, ``summary.json`` and ``summary.md``. A grades file that
exists is complete and is not graded again after an interruption. It never loads a model.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from longrun.config.evaluation import EvaluateConfig
from longrun.errors import InputError
from longrun.evaluation.generation.chunks import find_predictions, read_joined
from longrun.evaluation.grading.answers import extract_answer
from longrun.evaluation.grading.grade import Grader, Judgement
from longrun.evaluation.grading.judge import Judge
from longrun.evaluation.grading.rewards import Key, read_rewards
from longrun.evaluation.scores.summarise import Rewards, difference, summarise, summarise_parts
from longrun.evaluation.scores.tables import summary_markdown
from longrun.formats.predictions import (
    SUMMARY_NAME,
    DifferenceRow,
    Grade,
    Prediction,
    Summary,
    SummaryRow,
    read_grades,
    write_rows,
)
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import Progress, show_progress
from longrun.formats.stages.stage import open_stage

MARKDOWN_NAME = "summary.md"
_CHUNK = 256
log = logging.getLogger(__name__)
Grades = Mapping[Key, Sequence[Grade]]


def run(config: EvaluateConfig) -> Manifest:
    """Grade every prediction and write the summary.

    Raises:
        InputError: a folder is no finished output of ``generate``, no solution is left, two
            folders hold the same label and benchmark, or rewards do not fit.
    """
    files = find_predictions(config.predictions)
    with open_stage("evaluate", config) as stage:
        if stage.finished is not None:
            return stage.finished
        predictions = _read_all(files)
        total = sum(map(len, predictions.values()))
        judge = None if config.judge is None else Judge(config.judge)
        grades: dict[Key, list[Grade]] = {}
        with Grader() as grader, show_progress("evaluate", total, "solutions") as progress:
            for (label, benchmark), rows in predictions.items():
                path = stage.folder / "grades" / label / f"{benchmark}.jsonl"
                if path.exists():
                    progress.skip(len(rows))
                else:
                    _write_grades(path, (grader, judge), rows, progress)
                grades[label, benchmark] = read_grades(path)
            summary = _summarise(grader, grades, read_rewards(config.rewards, grades))
        write_text(stage.folder / SUMMARY_NAME, _pretty(summary))
        write_text(stage.folder / MARKDOWN_NAME, summary_markdown(summary))
        counts = _count(grades) | ({} if judge is None else {"not_judged": judge.num_silent})
        return stage.finish(counts=counts, ledger=_balance(total, grades))


def grade_predictions(grader: Grader, rows: Sequence[Prediction]) -> list[Grade]:
    """Extract and judge the final answer of each prediction."""
    answers = [
        extract_answer(row.generation, row.mode, row.candidates, row.problem) for row in rows
    ]
    expected = [row.expected_answer for row in rows]
    judgements = grader.grade(list(zip(expected, answers, strict=True)))
    return [
        _grade(row, answer, judgement)
        for row, answer, judgement in zip(rows, answers, judgements, strict=True)
    ]


def blind_chances(grader: Grader, grades: Sequence[Grade]) -> dict[str, float]:
    """Return the share of right candidates of every problem that solutions were selected for.

    Over all its rows; a problem without any candidate has chance 0.
    """
    selections = {grade.id: grade for grade in grades if grade.mode == "genselect"}
    shares: dict[str, list[float]] = defaultdict(list)
    for grade in selections.values():
        pairs = [(grade.expected_answer, candidate) for candidate in grade.candidates]
        right = [entry.verdict == "right" for entry in grader.grade(pairs)]
        shares[grade.unit].append(fmean(right) if right else 0.0)
    return {unit: fmean(values) for unit, values in shares.items()}


def _read_all(files: Mapping[Key, Sequence[Path]]) -> dict[Key, list[Prediction]]:
    """Read all files; a benchmark without any solution is named and not graded."""
    found = {key: read_joined(paths) for key, paths in files.items()}
    for (label, benchmark), rows in found.items():
        if not rows:
            log.warning("evaluate: no solution of %s on %s is left", label, benchmark)
    if not any(found.values()):
        raise InputError("evaluate.predictions: no solution is left to grade; generate again")
    return {key: rows for key, rows in found.items() if rows}


def _write_grades(
    path: Path,
    graders: tuple[Grader, Judge | None],
    rows: Sequence[Prediction],
    progress: Progress,
) -> None:
    grader, judge = graders
    path.parent.mkdir(parents=True, exist_ok=True)
    graded: list[Grade] = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        grades = grade_predictions(grader, chunk)
        graded += grades if judge is None else judge.review(grades)
        progress.advance(len(chunk))
    write_rows(path, graded)


def _grade(row: Prediction, answer: str | None, judgement: Judgement) -> Grade:
    return Grade(
        **msgspec.structs.asdict(row),
        predicted_answer=answer,
        correct=judgement.verdict == "right",
        verdict=judgement.verdict,
        why=judgement.why,
    )


def _summarise(grader: Grader, grades: Grades, rewards: Mapping[Key, Rewards]) -> Summary:
    rows: list[SummaryRow] = []
    parts: list[SummaryRow] = []
    models: dict[str, dict[str, Sequence[Grade]]] = defaultdict(dict)
    for (label, benchmark), entries in grades.items():
        chances = blind_chances(grader, entries)
        known = rewards.get((label, benchmark))
        rows.append(summarise(label, benchmark, entries, chances, known))
        parts += summarise_parts(label, benchmark, entries, chances, known)
        models[benchmark][label] = entries
    return Summary(rows=rows, differences=_differences(models), parts=parts)


def _differences(models: Mapping[str, Mapping[str, Sequence[Grade]]]) -> list[DifferenceRow]:
    """Compare every two models on every benchmark that both were given."""
    found = [
        difference(model, baseline, benchmark, by_label)
        for benchmark, by_label in models.items()
        for baseline, model in itertools.combinations(by_label, 2)
    ]
    return [row for row in found if row is not None]


def _pretty(summary: Summary) -> str:
    return msgspec.json.format(msgspec.json.encode(summary), indent=2).decode() + "\n"


def _count(grades: Grades) -> dict[str, float]:
    verdicts = [grade.verdict for entries in grades.values() for grade in entries]
    return {
        "graded": len(verdicts),
        **{name.replace(" ", "_"): verdicts.count(name) for name in sorted(set(verdicts))},
    }


def _balance(total: int, grades: Grades) -> Ledger:
    ledger = Ledger()
    ledger.take(total)
    for entries in grades.values():
        ledger.keep(len(entries), tokens=sum(grade.tokens for grade in entries))
    return ledger
