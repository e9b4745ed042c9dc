"""Decide whether an answer is right: right, wrong, no answer or timed out, and why.

In this order, the first that decides:

1. the same text in one spelling (``notation``), words in any case: right;
2. both are choices (``A``, ``(B)``, ``C. 12``): compared by letter, right or wrong;
3. both are numbers (``numerals``): compared exactly, right or wrong;
4. math-verify on both as LaTeX, in a process of its own with a hard limit.

A name that only the given answer carries (``x = 5`` for ``5``) is taken off first.

Most answers of competition mathematics are integers and never reach the last step. A comparison
that does not end in time is never right. Nothing a model wrote is ever evaluated.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from longrun.evaluation.grading.notation import (
    LONGEST_ANSWER,
    as_latex,
    clean,
    normalise,
    strip_base,
)
from longrun.evaluation.grading.numerals import read_number, same_number, strip_label
from longrun.evaluation.sandbox.framed_process import WorkerError, WorkerProcess
from longrun.formats.closes import Closes
from longrun.formats.predictions import Verdict
from longrun.formats.processes import available_cores

CPU_SECONDS = 5
"""CPU time of one comparison; kept by the kernel, so that a busy machine changes no verdict."""
_WALL_SECONDS = 60.0
"""Bound for a comparison that waits instead of computing."""
_MEMORY_BYTES = 4 << 30
_REPLY_BYTES = 100


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the step that gave it."""

    verdict: Verdict
    why: str


_CHOICE = re.compile(r"([A-Ja-j])|\(\s*([A-J])\s*\).*|([A-J])[.:)]\s.*", re.DOTALL)
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ -][^\W\d_]+)*")
_SAME_WORDS = {"dne": "does not exist", "doesn't exist": "does not exist"}
NO_ANSWER = Judgement("no answer", "states no final answer")
Pair = tuple[str, str | None]
"""Expected and given answer; None: none was given."""


def judge_by_text_and_number(expected: str, given: str) -> Judgement | None:
    """Decide without computing, or return None where only symbolic comparison can tell."""
    bare = given if names_answer(expected) else strip_label(given)
    one = normalise(expected)
    spellings = {normalise(given), normalise(bare)}
    if one in spellings or _as_words(expected) in {_as_words(given), _as_words(bare)} - {None}:
        return Judgement("right", "same text")
    letters = read_choice(expected), read_choice(bare)
    if letters[0] and letters[0].isupper() and letters[1]:
        same = letters[0] == letters[1]
        return Judgement("right", "same choice") if same else Judgement("wrong", "another choice")
    (bare_one, based_one), (bare_two, based_two) = strip_base(one), strip_base(normalise(given))
    if based_one != based_two and bare_one == bare_two:
        return Judgement("right", "same digits, the base is understood")
    number, other = read_number(expected), read_number(bare)
    if number is not None and other is not None:
        if same_number(number, other):
            return Judgement("right", "same number")
        return Judgement("wrong", "another number")
    if max(map(len, (one, *spellings))) > LONGEST_ANSWER:
        return Judgement("wrong", f"longer than {LONGEST_ANSWER} characters and not the same text")
    return None


def names_answer(expected: str) -> bool:
    """Say whether a name belongs to the answer itself, as in ``y = 2x + 1``."""
    return "=" in expected or "\\equiv" in expected


def read_choice(text: str) -> str | None:
    r"""Return the letter of a multiple-choice answer, A to J; None when it is something else.

    >>> [read_choice(text) for text in ("B", r"\text{(C)}", "D. 12", "A + B", "a")]
    ['B', 'C', 'D', None, None]
    """
    match = _CHOICE.fullmatch(clean(text))
    return next(filter(None, match.groups())) if match else None


def _as_words(text: str) -> str | None:
    """Return words in small letters; None when it is not words alone."""
    bare = clean(text).casefold()
    return _SAME_WORDS.get(bare, bare) if _WORDS.fullmatch(bare) else None


class Grader(Closes):
    """Grades pairs of answers; starts its processes when the first pair needs them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Judgement] = {}
        self._num_workers = available_cores()
        self._threads = ThreadPoolExecutor(self._num_workers)
        self._idle: SimpleQueue[_Equivalence] = SimpleQueue()
        self._workers = [_Equivalence() for _ in range(self._num_workers)]
        for worker in self._workers:
            self._idle.put(worker)

    def close(self) -> None:
        """Let go of what is held."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def grade(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """Judge every ``(expected, given)`` pair; equal pairs are compared once."""
        self._compare(
            {(expected, given) for expected, given in pairs if given is not None}
            - self._known.keys()
        )
        return [
            NO_ANSWER if given is None else self._known[expected, given]
            for expected, given in pairs
        ]

    def _compare(self, pairs: Iterable[tuple[str, str]]) -> None:
        hard = []
        for pair in sorted(pairs):
            judgement = judge_by_text_and_number(*pair)
            if judgement is None:
                hard.append(pair)
            else:
                self._known[pair] = judgement
        self._known.update(zip(hard, self._threads.map(self._ask, hard), strict=True))

    def _ask(self, pair: tuple[str, str]) -> Judgement:
        worker = self._idle.get()
        try:
            return worker.judge(*pair)
        finally:
            self._idle.put(worker)


class _Equivalence:
    """One worker process and its successors."""

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None

    def judge(self, expected: str, given: str) -> Judgement:
        if self._process is None:
            self._process = WorkerProcess(
                [
                    *(sys.executable, "-m", "longrun.evaluation.grading.equivalence_worker"),
                    *map(str, (CPU_SECONDS, _MEMORY_BYTES, os.getpid())),
                ],
                {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            bare = given if names_answer(expected) else strip_label(given)
            request = {"expected": as_latex(expected), "given": as_latex(bare)}
            self._process.send(request, _WALL_SECONDS)
            reply = self._process.receive(_WALL_SECONDS, _REPLY_BYTES)
        except WorkerError:
            self.end()
            return Judgement("timed out", f"not decided within {CPU_SECONDS} CPU seconds")
        if "error" in reply:
            return Judgement("wrong", f"cannot be compared ({reply['error']})")
        if reply["equal"] is True:
            return Judgement("right", "equal by math-verify")
        return Judgement("wrong", "not equal by math-verify")

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
