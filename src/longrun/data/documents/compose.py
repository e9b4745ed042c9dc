r"""From one record to the text of one document: checks, budget, prompt, typed pieces.

Pure functions of a record and the recipe; nothing here reads files or counts tokens.

A response is cut into *runs*, the stretches that are written in one go when a model is sampled::

    <think> .. </tool_call>\n | ```output .. ```system .. \n | So .. \\boxed{6}. | <|im_end|>
    the model                 | the environment             | the model          | stop

Each run is tokenized as one string, and so are its counterparts during generation; see
``longrun.data.documents.encode``.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from longrun.config.stages import PrepareConfig
from longrun.data.records.filled_prompts import expected_record
from longrun.data.records.filters import FilterChain, require_text
from longrun.data.records.sources import SourceFile
from longrun.errors import InputError
from longrun.formats.text.code_style import BUDGET_PATTERN
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.placeholders import NullColumnError
from longrun.formats.text.spans import WRITTEN_BY_TOOL, Border, SpanKind, split_response
from longrun.formats.text.turns import NoThinkingError

BUDGET_COLUMN = "total_code_executions"
TOOL_MODE = "tir"
_BUDGET = re.compile(BUDGET_PATTERN.encode())
_WHITE = b" \t\n\v\f\r"


class Run(NamedTuple):
    """A stretch of a response that is written in one go."""

    text: bytes
    kinds: list[SpanKind]
    """Of each piece."""
    offsets: list[int]
    """The first byte of each piece; the first is 0."""

    def pieces(self) -> Iterator[tuple[SpanKind, int, int]]:
        """Return what every piece is, where it begins and where it ends."""
        return zip(self.kinds, self.offsets, [*self.offsets[1:], len(self.text)], strict=True)


class Draft(NamedTuple):
    """The text of one document."""

    line: int
    """Counted from 0 inside the part."""
    mode: str
    problem: int
    held_out: bool
    prompt: str
    """Rendered, with look-alikes of control tokens hidden."""
    runs: list[Run]
    refused_by: int | None
    """Filter that will refuse it, unless one before does so by token count."""
    size: int
    """Bytes of prompt and response, about."""
    texts: tuple[str, ...] = ()
    """The texts of the messages, the system's first if there is one, the response's last."""


class Dropped(NamedTuple):
    """A record that does not become a document."""

    reason: str


@dataclass(frozen=True)
class Composer:
    """Composes the drafts of one ``prepare`` stage."""

    config: PrepareConfig
    conversation: Conversation
    tokenizer: ExactTokenizer

    def __reduce__(self) -> tuple[type["Composer"], tuple[Any, ...]]:
        """Send the settings, not what was built from them, to another process."""
        return type(self), (self.config, self.conversation, self.tokenizer)

    @cached_property
    def filters(self) -> FilterChain:
        """The filters of the recipe."""
        return FilterChain(self.config.filters)

    def compose(
        self,
        line: int,
        raw: Mapping[str, Any],
        file: SourceFile,
        repeats: bool = False,
    ) -> Draft | Dropped:
        """Return the draft of a raw record of ``file``, or why there is none.

        ``repeats``: it is a duplicate of an earlier record, as the filters define it.

        Raises:
            InputError: a column is absent or of the wrong type, or its mode has no prompt.
        """
        record = expected_record(raw, file, self.conversation)
        problem = require_text(record, "problem")
        solution = require_text(record, "generated_solution")
        mode = require_text(record, "inference_mode")
        refused_by = self.filters.refuse(record, repeats)
        if refused_by is not None and not self.filters.counts_tokens_before(refused_by):
            return Dropped(self.filters.reason(refused_by))
        if not problem or problem.isspace():
            return Dropped("empty problem")
        if not solution or solution.isspace():
            return Dropped("empty solution")
        try:
            runs = self._cut(mode, solution)
        except InputError:
            return Dropped("unbalanced tags")
        if mode == TOOL_MODE and self._states_budget and record.get(BUDGET_COLUMN) is None:
            budget = self._budget(runs)
            if budget is None:
                return Dropped("no code budget")
            record = {**record, BUDGET_COLUMN: budget}
        try:
            prompt, body = self._render(mode, record, solution)
        except NoThinkingError:
            return Dropped("no thinking")
        except NullColumnError as error:
            return Dropped(f"empty {error.column}")
        if body != solution:
            runs = self._cut(mode, body)
        identity = problem_id(problem)
        held_out = is_held_out(identity, self.config.validation_share, self.config.seed)
        size = len(prompt) + sum(len(run.text) for run in runs)
        texts = (*self.conversation.fill(mode, record), solution)
        return Draft(line, mode, identity, held_out, prompt, runs, refused_by, size, texts)

    def _render(self, mode: str, record: Mapping[str, Any], solution: str) -> tuple[str, str]:
        """Return the prompt, look-alikes hidden, and what the model is to write."""
        tokenizer = self.tokenizer
        prompt, body = self.conversation.render_turn(mode, record, solution, guard=tokenizer.hide)
        written = tokenizer.find_control(body)
        if written is not None:
            raise InputError(
                f"the chat template writes {written} inside a response, not only at its end; name"
                " another chat_template"
            )
        return prompt, tokenizer.show(body)

    def _cut(self, mode: str, response: str) -> list[Run]:
        """Return the runs of a response.

        Raises:
            InputError: its tags are not balanced.
        """
        code = self.conversation.code if mode == TOOL_MODE else None
        text = response.encode()
        return cut_runs(text, split_response(text, code))

    @cached_property
    def _states_budget(self) -> bool:
        """Whether the prompt of the mode with a tool names the code budget."""
        prompt = self.conversation.prompts.get(TOOL_MODE)
        return prompt is not None and BUDGET_COLUMN in prompt.fields()

    def _budget(self, runs: list[Run]) -> int | None:
        budget = find_budget(runs)
        if budget is None and self.config.missing_budget == "pass":
            return max(1, sum(run.kinds.count(SpanKind.CODE) for run in runs))
        return budget


def find_budget(runs: list[Run]) -> int | None:
    """Return how many code executions were allowed, as the notices tell; None: they do not.

    The first number that remains, plus the call before it; 1 where only the exhausted notice is
    there.

    >>> find_budget([Run(b"Remaining code executions: 11. Take care.", [SpanKind.NOTICE], [0])])
    12
    """
    exhausted = False
    for notice in find_notices(runs):
        match = _BUDGET.search(notice)
        if match:
            return int(match[1]) + 1
        exhausted = True
    return 1 if exhausted else None


def find_notices(runs: list[Run]) -> Iterator[bytes]:
    """Yield the notices of a response in order."""
    for run in runs:
        if SpanKind.NOTICE in run.kinds:
            pieces = run.pieces()
            yield from (run.text[a:b] for kind, a, b in pieces if kind is SpanKind.NOTICE)


def cut_runs(text: bytes, borders: list[Border]) -> list[Run]:
    """Group pieces of ``text`` into what the model and what the environment writes in one go."""
    runs: list[Run] = []
    kinds: list[SpanKind] = []
    offsets: list[int] = []
    by_tool, first, begin = None, 0, 0
    for kind, end in borders:
        if (kind in WRITTEN_BY_TOOL) is not by_tool:
            if kinds:
                runs.append(Run(text[first:begin], kinds, offsets))
            by_tool, first = kind in WRITTEN_BY_TOOL, begin
            kinds, offsets = [], []
        kinds.append(kind)
        offsets.append(begin - first)
        begin = end
    if kinds:
        runs.append(Run(text[first:], kinds, offsets))
    return runs


def problem_id(text: str) -> int:
    """Return a stable 64-bit hash of a problem; white space does not count."""
    bare = text.encode().translate(None, _WHITE)
    return int.from_bytes(hashlib.blake2b(bare, digest_size=8).digest(), "little")


def is_held_out(problem: int, share: float, seed: int) -> bool:
    """Decide whether a problem belongs to validation; records of one problem stay together.

    Depends on the problem and the seed alone, not on order, parts or workers.
    """
    if share <= 0.0:
        return False
    drawn = hashlib.blake2b(f"{seed} {problem}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "little") < share * 2.0**64
