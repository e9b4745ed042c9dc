"""Problems, predictions and grades as JSON lines: what generation and evaluation hand over.

One line is one object. Readers check every field and name file, line and field of the first that
is wrong; writers put a whole file in place at once. It never decides whether an answer is right.
"""

from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from longrun.config.values import Mode
from longrun.errors import InputError
from longrun.formats.json_text import JsonError, decode_json, read_json
from longrun.formats.stages.atomic import atomic_file

Finish = Literal["stop", "length", "budget"]
"""``stop``: the stop token; ``length``: the token bound; ``budget``: called code once too often."""
Verdict = Literal["right", "wrong", "no answer", "timed out"]
MODELS_NAME = "models.json"
"""Labels of the models that ``generate`` asked, in order."""
SUMMARY_NAME = "summary.json"
Row = TypeVar("Row")
_encoder = msgspec.json.Encoder()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark problem with everything that a row may leave out filled in."""

    id: str
    mode: Mode
    source: str
    problem: str
    expected_answer: str
    """Empty where the benchmark does not say."""
    total_code_executions: int | None
    candidates: list[str]
    group: str | None = None
    line: int
    """Line of the benchmark file; counts from 1."""
    record: dict[str, Any]
    """The whole row: a prompt may name any of its columns."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sampled solution. Token counts are the model's own."""

    id: str
    sample: int
    """Counts from 0."""
    mode: Mode
    source: str
    problem: str
    prompt_tokens: int
    expected_answer: str
    candidates: list[str]
    generation: str
    """The whole text after the prompt, tool output included, without the stop token."""
    pieces: list[tuple[str, str]]
    """``(kind of span, text)``; the texts joined are ``generation``."""
    finish: Finish
    tokens: int
    """Tokens after the prompt, tool output and stop token included."""
    code_calls: int
    code_errors: int
    """Calls that ended with an exception, at the time limit or in a dead process."""
    group: str | None = None

    @property
    def unit(self) -> str:
        """What the error bars count as one: the problem, also where several rows ask about it."""
        return self.id if self.group is None else self.group


class Grade(Prediction, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prediction with the verdict on its answer."""

    predicted_answer: str | None
    correct: bool
    verdict: Verdict
    why: str


class AtK(msgspec.Struct, frozen=True, kw_only=True):
    """What ``k`` solutions per problem give: expectations over all choices of k among the samples.

    Intervals are 95 % ones over problems.
    """

    k: int
    pass_at_k: float
    pass_interval: tuple[float, float]
    majority: float
    majority_interval: tuple[float, float]
    best: float | None
    """Highest reward of the k; None without rewards."""
    best_interval: tuple[float, float] | None


class SummaryRow(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one model on one benchmark; rates are shares between 0 and 1."""

    model: str
    benchmark: str
    mode: str
    source: str | None = None
    """Set in the rows of one source of a benchmark with several."""
    problems: int
    samples: int
    """Solutions per problem."""
    pass_at_1: float
    standard_error: float | None
    """Over problems; None when there is only one."""
    sampling_error: float | None = None
    """The part of ``standard_error`` that more samples would remove; None with one sample."""
    interval: tuple[float, float]
    """95 % interval of ``pass_at_1``."""
    majority: float
    """Vote of all samples of a problem; for selections the published GenSelect figure."""
    majority_interval: tuple[float, float] | None = None
    no_answer_rate: float
    unfinished_rate: float
    """Solutions that did not end by themselves and gave no answer."""
    timed_out_rate: float
    mean_tokens: float
    code_calls: float
    """Per solution."""
    code_errors: float
    """Per solution."""
    chance: float | None
    """Selection only: mean share of right candidates, what a blind choice would score."""
    at_k: list[AtK] = []
    """k = 1, 2, 4, ... up to the samples that every problem has; empty with one sample."""


class DifferenceRow(msgspec.Struct, frozen=True, kw_only=True):
    """``pass_at_1`` of ``model`` minus that of ``baseline`` on the problems both solved."""

    model: str
    baseline: str
    benchmark: str
    mode: str
    problems: int
    difference: float
    standard_error: float | None
    interval: tuple[float, float]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What ``summary.json`` holds."""

    rows: list[SummaryRow]
    differences: list[DifferenceRow]
    parts: list[SummaryRow] = []
    """The same figures for every source and mode of benchmarks that mix several."""


def read_predictions(path: Path) -> list[Prediction]:
    """Read a finished predictions file.

    Raises:
        InputError: it is missing, or a line is damaged; names line and field.
    """
    return [row for _, row in read_rows(path, Prediction)]


def read_grades(path: Path) -> list[Grade]:
    """Read a finished grades file; raises ``InputError`` as ``read_predictions`` does."""
    return [row for _, row in read_rows(path, Grade)]


def read_summary(folder: Path) -> Summary:
    """Read the summary in an output folder of ``evaluate``.

    Raises:
        InputError: there is none or it is damaged.
    """
    path = folder / SUMMARY_NAME
    return read_json(path, Summary, "run `longrun evaluate` first")


def write_rows(path: Path, rows: Iterable[msgspec.Struct | dict[str, Any]]) -> None:
    """Write one JSON object per line to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        for row in rows:
            file.write(_encoder.encode(row) + b"\n")


def read_rows(path: Path, kind: type[Row]) -> Generator[tuple[int, Row]]:
    """Yield line number and object of every line that is not blank.

    Raises:
        InputError: the file is missing or a folder, or a line is damaged; names line and field.
    """
    with closing(_read_lines(path)) as lines:
        for line, text in lines:
            yield line, convert_row(_parse(text, path, line), kind, path, line)


def _read_lines(path: Path) -> Generator[tuple[int, bytes]]:
    try:
        with open(path, "rb") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, text
    except FileNotFoundError:
        raise InputError.at(path, None, "does not exist; name a JSONL file") from None
    except IsADirectoryError:
        raise InputError.at(path, None, "is a folder; name a JSONL file in it") from None


def _parse(text: bytes, path: Path, line: int) -> Any:
    try:
        return decode_json(text, dict[str, Any])
    except JsonError as error:
        problem = f"{error}; repair the line or write the file again"
        raise InputError.at(path, line, problem) from None


def convert_row(value: Any, kind: type[Row], path: Path, line: int) -> Row:
    """Check the fields; JSON's arrays may stand for tuples."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        problem = f"{_wrong_field(value, kind) or error}; add or repair the field"
        raise InputError.at(path, line, problem) from None


def _wrong_field(value: Any, kind: type) -> str | None:
    """Name the first field of ``kind`` that ``value`` lacks or holds wrongly; None: neither."""
    if not (isinstance(value, dict) and issubclass(kind, msgspec.Struct)):
        return None
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name not in value:
            if field.required:
                return f"has no field {name}"
            continue
        try:
            msgspec.convert(value[name], field.type)
        except (msgspec.ValidationError, RecursionError):
            return f"field {name} holds {value[name]!r:.40}, which is not of its kind"
    return None
