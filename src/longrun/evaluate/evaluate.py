"""Stage ``evaluate``: grade the predictions of ``generate`` and summarise them with error bars.

Writes ``grades/LABEL/BENCHMARK.jsonl``, ``summary.json`` and ``summary.md``. A grades file that
exists is complete and is not graded again after an interruption. It never loads a model.
"""

import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from longrun.config.stages import EvaluateConfig
from longrun.errors import InputError
from longrun.evaluate.answers import extract_answer
from longrun.evaluate.grade import Grader, Judgement
from longrun.evaluate.summarise import difference, summarise
from longrun.evaluate.tables import summary_markdown
from longrun.formats.atomic import write_text
from longrun.formats.ledger import Ledger
from longrun.formats.manifest import Manifest
from longrun.formats.predictions import (
    MODELS_NAME,
    SUMMARY_NAME,
    DifferenceRow,
    Grade,
    Prediction,
    Summary,
    SummaryRow,
    read_grades,
    read_predictions,
    write_rows,
)
from longrun.formats.progress import show_progress
from longrun.formats.stage import open_stage

MARKDOWN_NAME = "summary.md"
_CHUNK = 256
log = logging.getLogger(__name__)
Files = dict[tuple[str, str], Path]
"""(model label, benchmark) -> predictions file."""


def run(config: EvaluateConfig) -> Manifest:
    """Grade every prediction and write the summary.

    Raises:
        InputError: a folder is no finished output of ``generate``, a file is damaged, or two
            folders hold the same label and benchmark.
    """
    files = find_predictions(config.predictions)
    with open_stage("evaluate", config) as stage:
        if stage.finished is not None:
            return stage.finished
        predictions = {key: read_predictions(path) for key, path in files.items()}
        total = sum(map(len, predictions.values()))
        grades: dict[tuple[str, str], list[Grade]] = {}
        with Grader() as grader, show_progress("evaluate", total, "solutions") as progress:
            for (label, benchmark), rows in predictions.items():
                path = stage.folder / "grades" / label / f"{benchmark}.jsonl"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
                    graded = []
                    for chunk in chunks:
                        graded += grade_predictions(grader, chunk)
                        progress.advance(len(chunk))
                    write_rows(path, graded)
                grades[label, benchmark] = read_grades(path)
            summary = _summarise(grader, grades)
        write_text(stage.folder / SUMMARY_NAME, _pretty(summary))
        write_text(stage.folder / MARKDOWN_NAME, summary_markdown(summary))
        return stage.finish(counts=_count(grades), ledger=_balance(total, grades))


def find_predictions(folders: Sequence[Path]) -> Files:
    """Return every predictions file of the finished ``generate`` outputs, in the order asked for.

    Raises:
        InputError: a folder is not such an output, holds no predictions, or repeats another.
    """
    files: Files = {}
    for folder in folders:
        manifest = Manifest.read(folder, "generate")
        labels = json.loads((folder / MODELS_NAME).read_text())
        names = [benchmark["name"] for benchmark in manifest.settings["benchmarks"]]
        for key in itertools.product(labels, names):
            path = folder / key[0] / f"{key[1]}.jsonl"
            if key in files:
                problem = f"also in {files[key]}; give the models different labels"
                raise InputError.at(path, None, problem)
            files[key] = path
    return files


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


def mean_chance(grader: Grader, grades: Sequence[Grade]) -> float | None:
    """Return the mean share of right candidates over selection problems; None without any."""
    selections = {grade.id: grade for grade in grades if grade.mode == "genselect"}
    shares = []
    for grade in selections.values():
        pairs = [(grade.expected_answer, candidate) for candidate in grade.candidates]
        shares.append(fmean(entry.verdict == "right" for entry in grader.grade(pairs)))
    return fmean(shares) if shares else None


def _grade(row: Prediction, answer: str | None, judgement: Judgement) -> Grade:
    return Grade(
        **msgspec.structs.asdict(row),
        predicted_answer=answer,
        correct=judgement.verdict == "right",
        verdict=judgement.verdict,
        why=judgement.why,
    )


def _summarise(grader: Grader, grades: Mapping[tuple[str, str], Sequence[Grade]]) -> Summary:
    rows: list[SummaryRow] = []
    models: dict[str, dict[str, Sequence[Grade]]] = defaultdict(dict)
    for (label, benchmark), entries in grades.items():
        rows.append(summarise(label, benchmark, entries, mean_chance(grader, entries)))
        models[benchmark][label] = entries
    return Summary(rows=rows, differences=_differences(models))


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


def _count(grades: Mapping[tuple[str, str], Sequence[Grade]]) -> dict[str, float]:
    verdicts = [grade.verdict for entries in grades.values() for grade in entries]
    return {
        "graded": len(verdicts),
        **{name.replace(" ", "_"): verdicts.count(name) for name in sorted(set(verdicts))},
    }


def _balance(total: int, grades: Mapping[tuple[str, str], Sequence[Grade]]) -> Ledger:
    ledger = Ledger()
    ledger.take(total)
    for entries in grades.values():
        ledger.keep(len(entries), tokens=sum(grade.tokens for grade in entries))
    return ledger
