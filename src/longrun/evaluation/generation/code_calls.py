r"""Code calls inside a solution: notice them, run them, and write what came of them.

A worked trace with a budget of 2 (model | environment)::

    <tool_call>\nx = 6\n</tool_call>\n | ```output\n```\n```system\n...: 1. ...\n```\n |
    <tool_call>\nx * 7\n</tool_call>\n | ```output\n42\n```\n```system\n(none left)\n```\n |
    The answer is \boxed{42}.<stop>

Output and notice are tokenized as pieces of their own, as in training, and count as tokens of the
solution. A call with nothing left of the budget ends the solution. Each solution has one session,
so later blocks see the variables of earlier ones and nothing is run twice.
"""

import re
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass

from longrun.evaluation.generation.solutions import Part, Solution
from longrun.evaluation.sandbox.sandbox import Execution, Sandbox, Session
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.spans import SpanKind

_TAIL_TOKENS = 32
"""A token is at least one byte, so this many tokens hold every end tag."""


@dataclass(frozen=True, slots=True)
class Call:
    """Where a call stands in the text of a segment."""

    begin: int
    """Index of the begin tag."""
    code: str
    text_end: int
    """Index behind the end tag, its newline not included."""


def find_call(text: str, style: CodeStyle) -> Call | None:
    """Return the first complete call in ``text``, or None.

    Models write tags with less care than the records they learned from: all on one line, spaces or
    a carriage return behind a tag. A begin tag that has its line for itself
    is preferred to one that is only mentioned. A closing tag that is also an ordinary fence counts
    only at the start of a line, and such a begin tag only at the end of one.
    """
    tag, opening = style.end.rstrip("\n"), style.begin.rstrip("\n")
    is_fence = opening.startswith(tag)
    before = r"(?<=\n)" if is_fence else ""
    for pattern in _openings(opening, is_fence):
        for begin in re.finditer(pattern, text):
            end = re.compile(before + re.escape(tag)).search(text, begin.end())
            if end is not None:
                return Call(begin.start(), text[begin.end() : end.start()], end.end())
    return None


def _openings(opening: str, is_fence: bool) -> list[str]:
    """Return patterns of the begin tag, from the surest to the loosest."""
    word = re.escape(opening)
    sure = [rf"(?m:^){word}[ \t\r]*\n", rf"{word}[ \t\r]*\n"]
    # Several on one line before the end tag: the last one; the others are only mentioned.
    return sure if is_fence else [*sure, rf"{word}[ \t]*(?!.*{word})"]


class CodeCalls:
    """Watches the segments of solutions and runs the calls that end them."""

    def __init__(
        self,
        style: CodeStyle,
        sandbox: Sandbox,
        encode: Callable[[str, str], list[int]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._style = style
        self._sandbox = sandbox
        self._encode = encode
        self._decode = decode
        self._tag = style.end.rstrip("\n")
        self._may_end: dict[int, bool] = {}
        self._sessions: dict[tuple[str, int], Session] = {}
        self._running: dict[Future[Execution], Solution] = {}
        self._answered: list[Solution] = []

    def ends_segment(self, solution: Solution) -> bool:
        """Say whether the last token of ``solution`` completed a call; cheap for most tokens."""
        if solution.problem.mode != "tir":
            return False
        token = solution.tokens[-1]
        if token not in self._may_end:
            self._may_end[token] = self._tag[-1] in self._decode([token])
        if not self._may_end[token]:
            return False
        tail = solution.tokens[max(solution.segment_start, len(solution.tokens) - _TAIL_TOKENS) :]
        if self._tag not in self._decode(tail):
            return False
        return find_call(self._decode(solution.segment), self._style) is not None

    def begin(self, solution: Solution) -> None:
        """Start the call that ends the segment; ``collect`` gives the solution back.

        A solution with nothing left of its budget is finished at once.
        """
        if solution.calls_left == 0:
            solution.finish = "budget"
            self._answered.append(solution)
            return
        code = self._call_of(solution).code
        self._running[self._sandbox.submit(self._session(solution), code)] = solution

    @property
    def running(self) -> set[Future[Execution]]:
        """Return the calls that run."""
        return set(self._running)

    @property
    def has_answers(self) -> bool:
        """Say whether ``collect`` has something at once, without any call having ended."""
        return bool(self._answered)

    def collect(self, *, wait: bool) -> list[Solution]:
        """Return the solutions whose calls have ended, with output and notice appended.

        With ``wait`` there is at least one, if any call was begun.
        """
        if self._running:
            patience = None if wait and not self._answered else 0
            done, _ = futures.wait(self._running, patience, futures.FIRST_COMPLETED)
            for future in done:
                solution = self._running.pop(future)
                self._append(solution, future.result())
                self._answered.append(solution)
        answered, self._answered = self._answered, []
        return answered

    def close(self, solution: Solution) -> None:
        """End the session of a finished solution."""
        session = self._sessions.pop((solution.problem.id, solution.sample), None)
        if session is not None:
            session.close()

    def _session(self, solution: Solution) -> Session:
        key = (solution.problem.id, solution.sample)
        if key not in self._sessions:
            self._sessions[key] = self._sandbox.open_session()
        return self._sessions[key]

    def _call_of(self, solution: Solution) -> Call:
        call = find_call(self._decode(solution.segment), self._style)
        if call is None:
            raise AssertionError(f"{solution.problem.id}: no call at the end of the segment")
        return call

    def _append(self, solution: Solution, execution: Execution) -> None:
        solution.code_calls += 1
        solution.code_errors += execution.failed
        solution.calls_left -= 1
        tokens, written = self._close_segment(solution)
        output = self._style.format_output(execution.text)
        notice = self._style.format_notice(solution.calls_left)
        before = written[-1][1]
        tokens += self._encode(output, before) + self._encode(notice, before + output)
        if solution.segment_start + len(tokens) >= solution.most_tokens:
            solution.finish = "length"  # no room for the output and one more token
            return
        appended: list[Part] = [(SpanKind.TOOL_OUTPUT, output), (SpanKind.NOTICE, notice)]
        solution.append([*written, *appended], tokens)

    def _close_segment(self, solution: Solution) -> tuple[list[int], list[Part]]:
        """Return tokens and parts of the segment, ended by the tag and its newline.

        The model's own tokens are kept where they spell that text, as they nearly always do.
        """
        tokens, written = solution.segment, self._decode(solution.segment)
        call = self._call_of(solution)
        text = written[: call.text_end] + "\n"
        if written == text[:-1]:
            tokens = tokens + self._encode("\n", written)
        elif written != text:
            tokens = self._encode(text, "")
        return tokens, [(None, text[: call.begin]), (SpanKind.CODE, text[call.begin :])]
