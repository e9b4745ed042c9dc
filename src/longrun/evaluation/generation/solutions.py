"""One solution while it is being written: its tokens, its typed pieces, how it ended.

A solution is a sequence of *segments* that the model writes, each followed (when it ends with a
code call) by what the environment appends. Kinds come from who wrote the text, never from parsing
it: a model that writes its own "output" fence has written answer or thinking, not tool output.
It knows neither the model nor the sandbox.
"""

from dataclasses import dataclass, field

import numpy as np

from longrun.formats.predictions import Finish, Prediction, Problem
from longrun.formats.text.spans import THINK_BEGIN, THINK_END, Piece, SpanKind

Part = tuple[SpanKind | None, str]
"""A piece of text; None: written by the model as running text, named at the end."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A solution that could not be had."""

    id: str
    sample: int
    why: str


@dataclass(slots=True)
class Solution:
    """One sample of one problem."""

    problem: Problem
    sample: int
    prompt: list[int]
    """Tokens of the prompt."""
    most_tokens: int
    calls_left: int
    rng: np.random.Generator
    """Gives one uniform number per sampled token, the same whatever else is in the batch."""
    tokens: list[int] = field(default_factory=list)
    """Everything after the prompt."""
    segment_start: int = 0
    """Index into ``tokens`` of the segment that the model is writing."""
    parts: list[Part] = field(default_factory=list)
    finish: Finish | None = None
    code_calls: int = 0
    code_errors: int = 0

    @property
    def text(self) -> list[int]:
        """Everything that the model reads: prompt and tokens."""
        return self.prompt + self.tokens

    @property
    def segment(self) -> list[int]:
        """Tokens of the segment that the model is writing."""
        return self.tokens[self.segment_start :]

    def append(self, parts: list[Part], tokens: list[int]) -> None:
        """End the segment: replace its tokens by ``tokens``, those of ``parts``; begin the next."""
        self.parts += parts
        self.tokens[self.segment_start :] = tokens
        self.segment_start = len(self.tokens)

    def as_prediction(self) -> Prediction:
        """Return the finished solution; ``parts`` must hold its whole text."""
        if self.finish is None:
            raise AssertionError(f"{self.problem.id}: predicted before it was finished")
        pieces = name_parts(self.parts)
        return Prediction(
            id=self.problem.id,
            sample=self.sample,
            mode=self.problem.mode,
            source=self.problem.source,
            problem=self.problem.problem,
            prompt_tokens=len(self.prompt),
            expected_answer=self.problem.expected_answer,
            candidates=self.problem.candidates,
            generation="".join(text for _, text in pieces),
            pieces=[(kind.name.lower(), text) for kind, text in pieces],
            finish=self.finish,
            tokens=len(self.tokens),
            code_calls=self.code_calls,
            code_errors=self.code_errors,
            group=self.problem.group,
        )


def name_parts(parts: list[Part]) -> list[Piece]:
    """Name running text: thinking up to the last ``</think>`` and its newlines, answer after that.

    Without ``</think>`` all is answer, unless the text opens with ``<think>`` (it was cut).
    """
    ends = [at for at, (kind, text) in enumerate(parts) if kind is None and THINK_END in text]
    running = "".join(text for kind, text in parts if kind is None)
    cut = not ends and running.lstrip().startswith(THINK_BEGIN)
    last = len(parts) if cut else max(ends, default=-1)
    pieces: list[Piece] = []
    for at, (kind, text) in enumerate(parts):
        if kind is not None:
            pieces.append((kind, text))
        elif at != last:
            pieces.append((SpanKind.THINKING if at < last else SpanKind.ANSWER, text))
        else:
            before, mark, after = text.rpartition(THINK_END)
            answer = after.lstrip("\n")
            newlines = "\n" * (len(after) - len(answer))
            pieces += [(SpanKind.THINKING, before + mark + newlines), (SpanKind.ANSWER, answer)]
    return [(kind, text) for kind, text in pieces if text]
