"""The stage ``check_contamination``: which benchmark problems are among the training problems.

    lineage -> first document of each problem -> its prompt as text -> the problem -> shared words

A problem is read once, however many solutions it has, and its documents are counted. Texts pass
one by one; what stays in memory are the benchmarks and the lineage of the documents.
It finds copied text; a reworded problem shares few words in a row and is not found (see
``longrun.formats.text.shared_words``). It drops nothing; the filter ``contamination`` does that.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from longrun.config.evaluation import CheckContaminationConfig
from longrun.data.documents.finish import TOKENIZER
from longrun.errors import InputError
from longrun.formats.benchmarks import read_texts
from longrun.formats.contamination import (
    CONTAMINATION_NAME,
    MATCHES_NAME,
    BenchmarkFindings,
    Contamination,
    Match,
)
from longrun.formats.documents import SOURCES_NAME, DocumentSet
from longrun.formats.hub import fetch_missing
from longrun.formats.plans import TRAIN, VALIDATION
from longrun.formats.stages.atomic import atomic_file, write_text
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import Progress, show_progress
from longrun.formats.stages.stage import open_stage
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.exact_tokenizer import TOKENIZER_FILE
from longrun.formats.text.shared_words import Kind, SharedWords

MARKDOWN_NAME = "contamination.md"
_KINDS: tuple[Kind, ...] = get_args(Kind)
_MARK = "\ufdd0{}\ufdd1"
"""Stands for the column of a prompt while its frame is found; noncharacters are in no text."""
log = logging.getLogger(__name__)


class BenchmarkProblem(NamedTuple):
    """One problem to look for."""

    benchmark: str
    id: str
    text: str


def run(config: CheckContaminationConfig) -> Manifest:
    """Look for every benchmark problem in the documents of ``config``.

    Raises:
        InputError: a folder holds no prepared documents, or a benchmark cannot be read.
        ResourceError: a benchmark has to be fetched and cannot be.
    """
    fetch_missing(config.benchmarks)
    wanted = [
        BenchmarkProblem(benchmark.name, own, text)
        for benchmark in config.benchmarks
        for own, text in read_texts(benchmark).items()
    ]
    splits = [_Split.open(folder, name) for folder in config.documents for name in _splits(folder)]
    with open_stage("check_contamination", config) as stage:
        if stage.finished is not None:
            return stage.finished
        words = SharedWords([problem.text for problem in wanted], config.ngram)
        tally, total = _Tally(wanted), sum(len(split.firsts) for split in splits)
        encode = msgspec.json.Encoder().encode
        with (
            atomic_file(stage.folder / MATCHES_NAME) as file,
            show_progress("check_contamination", total, "problems") as progress,
        ):
            for split in splits:
                for match in _search(split, wanted, words, tally, progress):
                    file.write(encode(match) + b"\n")
        found = Contamination(
            ngram=config.ngram,
            documents=sum(len(split.documents) for split in splits),
            training_problems=total,
            benchmarks=tally.findings(),
        )
        text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
        write_text(stage.folder / CONTAMINATION_NAME, f"{text}\n")
        write_text(stage.folder / MARKDOWN_NAME, contamination_markdown(found))
        _say(found)
        return stage.finish(
            counts={
                "benchmark_problems": len(wanted),
                "found": sum(one.found for one in found.benchmarks),
                "training_problems": total,
                "documents": found.documents,
            }
        )


def contamination_markdown(found: Contamination) -> str:
    """Return the figures as a table."""
    lines = [
        "# Benchmark problems among the training problems",
        "",
        "| benchmark | problems | same text | all words | n words | not found"
        " | training problems | documents |",
        "| --- |" + " ---: |" * 7,
    ]
    for one in found.benchmarks:
        figures = (one.problems, one.same_text, one.all_words, one.n_words)
        rest = (one.problems - one.found, one.training_problems, one.documents)
        lines.append(" | ".join(["| " + one.benchmark, *map(str, (*figures, *rest))]) + " |")
    lines += [
        "",
        f"Looked at {found.training_problems:,} problems in {found.documents:,} documents. Same"
        " text: case, spaces and `$` aside. All words: the whole problem stands inside a longer"
        f" one. n words: {found.ngram} in a row. A benchmark problem counts once, where the most of"
        " it was found. Reworded problems are not found. Every match is in"
        f" `{MATCHES_NAME}`.",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Split:
    """The documents of one split, and the first document of each problem in it."""

    folder: Path
    name: str
    documents: DocumentSet
    firsts: npt.NDArray[np.intp]
    """[P] first document of each problem, rising."""
    counts: npt.NDArray[np.intp]
    """[P] documents of each problem."""
    prompts: "_PromptReader"

    @classmethod
    def open(cls, folder: Path, name: str) -> "_Split":
        documents = DocumentSet.open(folder / name)
        _, firsts, counts = np.unique(documents.problems, return_index=True, return_counts=True)
        order = np.argsort(firsts)
        return cls(
            folder, name, documents, firsts[order], counts[order], _PromptReader.open(folder)
        )


class _PromptReader:
    """Finds the problem in the tokens of a prompt."""

    def __init__(self, tokenizer: Tokenizer, conversation: Conversation) -> None:
        self._tokenizer = tokenizer
        self._frames = {mode: _frame(conversation, mode) for mode in conversation.prompts}

    @classmethod
    def open(cls, folder: Path) -> "_PromptReader":
        path = folder / TOKENIZER / TOKENIZER_FILE
        if not path.is_file():
            raise InputError.at(path, None, "is missing; run prepare again")
        return cls(Tokenizer.from_file(str(path)), Conversation.load(folder))

    def read(self, tokens: Sequence[int], mode: str) -> str:
        """Return the problem; the whole prompt where its frame is not found in it."""
        prompt = str(self._tokenizer.decode(tokens, skip_special_tokens=False))
        frame = self._frames.get(mode)
        found = frame.fullmatch(prompt) if frame is not None else None
        return prompt if found is None else found["problem"]


def _frame(conversation: Conversation, mode: str) -> re.Pattern[str] | None:
    """Return a pattern of the whole prompt, its group ``problem``; None without that column."""
    names = conversation.prompts[mode].fields()
    if "problem" not in names:
        return None
    text = conversation.render(mode, {name: _MARK.format(name) for name in names})
    literal, *rest = re.split(_MARK.format(r"(\w+)"), text)
    pattern, seen = re.escape(literal), False
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        first = name == "problem" and not seen
        seen |= first
        pattern += ("(?P<problem>.*)" if first else ".*?") + re.escape(after)
    return re.compile(pattern, re.DOTALL) if seen else None


class _Tally:
    """What was found of every benchmark problem, and where."""

    def __init__(self, wanted: Sequence[BenchmarkProblem]) -> None:
        self._wanted = wanted
        self._best: dict[int, Kind] = {}
        self._problems: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()

    def add(self, kinds: dict[int, Kind], documents: int) -> None:
        """Count one training problem that shares text with the benchmark problems ``kinds``."""
        for place, kind in kinds.items():
            self._best[place] = min(kind, self._best.get(place, kind), key=_KINDS.index)
        for benchmark in {self._wanted[place].benchmark for place in kinds}:
            self._problems[benchmark] += 1
            self._documents[benchmark] += documents

    def findings(self) -> list[BenchmarkFindings]:
        """Return the figures of every benchmark, in order."""
        totals = Counter(problem.benchmark for problem in self._wanted)
        kinds = Counter((self._wanted[place].benchmark, kind) for place, kind in self._best.items())
        return [
            BenchmarkFindings(
                benchmark=name,
                problems=total,
                same_text=kinds[name, "same text"],
                all_words=kinds[name, "all words"],
                n_words=kinds[name, "n words"],
                training_problems=self._problems[name],
                documents=self._documents[name],
            )
            for name, total in totals.items()
        ]


def _splits(folder: Path) -> list[str]:
    names = [name for name in (TRAIN, VALIDATION) if (folder / name).is_dir()]
    if not names:
        raise InputError.at(folder, None, "holds no documents; name an output of prepare or merge")
    if not (folder / SOURCES_NAME).is_file():
        raise InputError.at(folder, None, "is a part or not finished; merge or prepare it first")
    return names


def _search(
    split: _Split,
    wanted: Sequence[BenchmarkProblem],
    words: SharedWords,
    tally: _Tally,
    progress: Progress,
) -> Iterator[Match]:
    """Yield every match of a split, in the order of its documents."""
    documents = split.documents
    for first, count in zip(split.firsts, split.counts, strict=True):
        index = int(first)
        document, mode = documents[index], documents.modes[int(documents.mode_indices[index])]
        text = split.prompts.read(document.tokens[: int(document.span_lengths[0])].tolist(), mode)
        shared = words.find(text)
        if shared:
            tally.add({one.problem: one.kind for one in shared}, int(count))
            origin = documents.origin(index)
        for one in shared:
            problem = wanted[one.problem]
            yield Match(
                benchmark=problem.benchmark,
                id=problem.id,
                kind=one.kind,
                overlap=round(one.overlap, 4),
                problem=problem.text,
                training_problem=text,
                folder=str(split.folder),
                split=split.name,
                document=index,
                documents=int(count),
                source=f"{origin.path}:{origin.line}",
                mode=mode,
            )
        progress.advance()


def _say(found: Contamination) -> None:
    for one in found.benchmarks:
        said = log.warning if one.found else log.info
        said(
            "check_contamination: %s: %d of %d problems share text with training problems"
            " (%d same text, %d all words, %d %d words in a row)",
            one.benchmark,
            one.found,
            one.problems,
            one.same_text,
            one.all_words,
            one.n_words,
            found.ngram,
        )
