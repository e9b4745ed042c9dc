r"""Typed spans: what each stretch of a document is, decided where the text is made.

A solution is cut by its literal tags, left to right. The worked trace, with ``|`` at the cuts::

    <think>\nTry it.\n|<tool_call>\nprint(6)\n</tool_call>\n|```output\n6\n```\n|
    THINKING          |CODE                                |TOOL_OUTPUT           |
    ```system\nRemaining code executions: 1.\n```\n|So 6.\n</think>\n|It is \boxed{6}.
    NOTICE                                        |THINKING          |ANSWER

An output is recognised only right after a code call and a notice only right after an output or
a call, so the same words inside the reasoning stay reasoning. Nothing is ever changed: the pieces
joined are the text.
"""

from enum import IntEnum

from longrun.errors import InputError
from longrun.formats.code_style import CodeStyle

THINK_BEGIN = "<think>"
THINK_END = "</think>"


class SpanKind(IntEnum):
    """What a span is; the numbers are stored in document shards."""

    PROMPT = 0
    THINKING = 1
    CODE = 2
    TOOL_OUTPUT = 3
    NOTICE = 4
    ANSWER = 5
    STOP = 6


Piece = tuple[SpanKind, str]

WRITTEN_BY_TOOL = frozenset({SpanKind.TOOL_OUTPUT, SpanKind.NOTICE})
"""Kinds that the environment appends during generation; every other kind is the model's."""


def split_response(text: str, code: CodeStyle | None, *, truncated: bool = False) -> list[Piece]:
    """Cut a solution into typed pieces; the pieces joined are ``text``.

    Thinking runs up to and including ``</think>`` and the newlines after it; without such a tag
    the whole is an answer. ``code`` None: code calls are ordinary text (modes without a tool).
    ``truncated``: the text may end anywhere, so the last tag may still be open.

    Raises:
        InputError: a tag is opened and never closed, closed and never opened, or opened twice.
    """
    cut: list[tuple[SpanKind | None, str]] = [(None, text)]
    if code is not None:
        cut = _Cutter(text, code, truncated).cut()
    return [piece for piece in _name_gaps(cut, truncated) if piece[1]]


class _Cutter:
    """Cuts out code calls, outputs and notices; the text between them has the kind None."""

    def __init__(self, text: str, code: CodeStyle, truncated: bool) -> None:
        self.text = text
        self.code = code
        self.truncated = truncated
        self.end_tag = code.end.rstrip("\n")
        self.fenced = code.begin.startswith(self.end_tag)
        """The closing tag is a bare fence, which also opens and closes ordinary blocks."""

    def cut(self) -> list[tuple[SpanKind | None, str]]:
        found: list[tuple[SpanKind | None, str]] = []
        position = 0
        while (begin := self.text.find(self.code.begin, position)) >= 0:
            found.append((None, self._gap(position, begin)))
            ends = [begin, self._end_of_call(begin)]
            ends.append(self._end_of_output(ends[-1]))
            ends.append(self._end_of_notice(ends[-1]))
            kinds = (SpanKind.CODE, SpanKind.TOOL_OUTPUT, SpanKind.NOTICE)
            for kind, start, end in zip(kinds, ends, ends[1:], strict=False):
                found.append((kind, self.text[start:end]))
            position = ends[-1]
        found.append((None, self._gap(position, len(self.text))))
        return [(kind, piece) for kind, piece in found if piece]

    def _gap(self, begin: int, end: int) -> str:
        if not self.fenced and self.text.find(self.end_tag, begin, end) >= 0:
            raise InputError(f"{self.end_tag!r} closes a code call that was never opened")
        return self.text[begin:end]

    def _end_of_call(self, begin: int) -> int:
        inside = begin + len(self.code.begin)
        if self.fenced:
            end = self._after_fence(inside - 1, f"\n{self.end_tag}")
        else:
            found = self.text.find(self.end_tag, inside)
            end = found + len(self.end_tag) if found >= 0 else -1
            end += self.text.startswith("\n", end) if end >= 0 else 0
        if end < 0:
            return self._open_end(self.code.begin, begin)
        again = self.text.find(self.code.begin, inside, end)
        if again >= 0:
            raise InputError(f"{self.code.begin.strip()!r} at character {again} is inside a call")
        return end

    def _end_of_output(self, position: int) -> int:
        """Return the end of the output that begins at ``position``, or ``position``: none does.

        An output may itself contain fences: the one followed by a notice closes it; without a
        notice before the next call, the first fence on a line of its own does.
        """
        code, text = self.code, self.text
        begin = position
        while text.startswith("\n", begin):
            begin += 1
        if not text.startswith(code.output_begin, begin):
            return position
        inside = begin + len(code.output_begin)
        next_call = text.find(code.begin, inside)
        closing = f"\n{code.output_end}{code.notice_begin}"
        end = text.find(closing, inside - 1, next_call if next_call >= 0 else len(text))
        if end >= 0:
            return end + 1 + len(code.output_end)
        end = self._after_fence(inside - 1, f"\n{code.output_end.rstrip()}")
        return end if end >= 0 else self._open_end(code.output_begin, begin)

    def _end_of_notice(self, position: int) -> int:
        begin = self.code.notice_begin
        if not self.text.startswith(begin, position):
            return position
        end = self._after_fence(position + len(begin) - 1, self.code.notice_end.rstrip())
        return end if end >= 0 else self._open_end(begin, position)

    def _after_fence(self, position: int, fence: str) -> int:
        """Return where the line of ``fence`` ends at or after ``position``; -1: nowhere."""
        while (position := self.text.find(fence, position)) >= 0:
            position += len(fence)
            if position == len(self.text) or self.text[position] == "\n":
                return min(position + 1, len(self.text))
        return -1

    def _open_end(self, tag: str, begin: int) -> int:
        if self.truncated:
            return len(self.text)
        raise InputError(f"{tag.strip()!r} at character {begin} is never closed")


def _name_gaps(cut: list[tuple[SpanKind | None, str]], truncated: bool) -> list[Piece]:
    """Name the text between calls: thinking up to ``</think>``, then answer."""
    thinking = any(kind is None and THINK_END in piece for kind, piece in cut)
    if not thinking and cut and cut[0][0] is None and cut[0][1].lstrip().startswith(THINK_BEGIN):
        if not truncated:
            raise InputError(f"{THINK_BEGIN!r} is never closed")
        thinking = True
    pieces: list[Piece] = []
    for kind, piece in cut:
        if kind is not None:
            pieces.append((kind, piece))
        elif not thinking:
            pieces.append((SpanKind.ANSWER, piece))
        elif (end := piece.find(THINK_END)) < 0:
            pieces.append((SpanKind.THINKING, piece))
        else:
            end += len(THINK_END)
            while piece.startswith("\n", end):
                end += 1
            pieces += [(SpanKind.THINKING, piece[:end]), (SpanKind.ANSWER, piece[end:])]
            thinking = False
    return pieces
