r"""Typed spans: what each stretch of a document is, decided where the text is made.

A solution is cut by its literal tags, left to right. The worked trace, with ``|`` at the borders::

    <think>\nTry it.\n|<tool_call>\nprint(6)\n</tool_call>\n|```output\n6\n```\n|
    THINKING          |CODE                                |TOOL_OUTPUT           |
    ```system\nRemaining code executions: 1.\n```\n|So 6.\n</think>\n|It is \boxed{6}.
    NOTICE                                        |THINKING          |ANSWER

An output is recognised only right after a code call and a notice only right after an output or
a call, so the same words inside the reasoning stay reasoning. Nothing is ever changed or copied:
what comes out is borders. Text is UTF-8 bytes here, because borders are counted in bytes.
"""

import re
from bisect import bisect_left
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from longrun.errors import InputError
from longrun.formats.text.code_style import CodeStyle

THINK_BEGIN = "<think>"
THINK_END = "</think>"
_THINK_BEGIN, _THINK_END = THINK_BEGIN.encode(), THINK_END.encode()


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
Border = tuple[SpanKind, int]
"""What a piece is and the byte at which it ends; the next one begins there."""

WRITTEN_BY_TOOL = frozenset({SpanKind.TOOL_OUTPUT, SpanKind.NOTICE})
"""Kinds that the environment appends during generation; every other kind is the model's."""


def split_response(text: bytes, code: CodeStyle | None) -> list[Border]:
    r"""Cut a solution into typed pieces, none of them empty; the last one ends where ``text`` does.

    Thinking runs up to and including the last ``</think>`` and the newlines after it; without such
    a tag the whole is an answer. ``code`` None: code calls are ordinary text, as in modes without a
    tool. Line ends may be ``\r\n``: tags are found as if they were ``\n``.

    Raises:
        InputError: a tag is opened and never closed, closed and never opened, or opened twice.
    """
    if b"\r\n" in text:
        plain = text.replace(b"\r\n", b"\n")
        return _move_borders(split_response(plain, code), text)
    found: list[tuple[SpanKind | None, int]] = []
    if code is not None:
        found = _Cutter(text, _tags_of(code)).cut()
    found.append((None, len(text)))
    begin, borders = 0, []
    for kind, end in _name_gaps(text, found):
        if end > begin:
            borders.append((kind, end))
            begin = end
    return borders


def _move_borders(borders: list[Border], text: bytes) -> list[Border]:
    """Return borders of a text whose line ends were made one byte as borders of ``text``."""
    # Where each line end stands once those before it are one byte.
    ends = [mark.start() - number for number, mark in enumerate(re.finditer(b"\r\n", text))]
    return [(kind, end + bisect_left(ends, end)) for kind, end in borders]


class _Tags(NamedTuple):
    """The literal texts of a code style, as bytes."""

    begin: bytes
    end: bytes
    """Without the newline after it."""
    marks: re.Pattern[bytes]
    """Finds the beginnings of calls and, unless these are bare fences, their ends."""
    output_begin: bytes
    output_end: bytes
    notice_begin: bytes
    notice_end: bytes
    fenced: bool
    """The closing tag is a bare fence, which also opens and closes ordinary blocks."""


@lru_cache(maxsize=8)
def _tags_of(code: CodeStyle) -> _Tags:
    begin, end = code.begin.encode(), code.end.rstrip("\n").encode()
    fenced = begin.startswith(end)
    tags = [begin] if fenced else [begin, end]
    # With the same first byte written once, ``re`` looks for it before it compares anything.
    first = begin[:1] if end.startswith(begin[:1]) else b""
    rest = b"|".join(re.escape(tag[len(first) :]) for tag in tags)
    return _Tags(
        begin=begin,
        end=end,
        marks=re.compile(re.escape(first) + b"(?:" + rest + b")"),
        output_begin=code.output_begin.encode(),
        output_end=code.output_end.encode(),
        notice_begin=code.notice_begin.encode(),
        notice_end=code.notice_end.rstrip().encode(),
        fenced=fenced,
    )


class _Cutter:
    """Finds code calls, outputs and notices; the text between them has the kind None."""

    def __init__(self, text: bytes, tags: _Tags) -> None:
        self.text = text
        self.tags = tags
        self.marks = [
            (mark.start(), mark.group() == tags.begin) for mark in tags.marks.finditer(text)
        ]
        """Where a call begins (True) or ends."""

    def cut(self) -> list[tuple[SpanKind | None, int]]:
        """Return the borders up to the end of the last call; pieces may be empty."""
        found: list[tuple[SpanKind | None, int]] = []
        position = 0
        for at, (begin, opens) in enumerate(self.marks):
            if begin < position:
                continue  # the end of a call, or what looks like a tag in an output
            if not opens:
                end_tag = _shown(self.tags.end)
                raise InputError(f"{end_tag} closes a code call that was never opened")
            end, following = self._end_of_call(at)
            output = self._end_of_output(end, following)
            position = self._end_of_notice(output)
            found += [
                (None, begin),
                (SpanKind.CODE, end),
                (SpanKind.TOOL_OUTPUT, output),
                (SpanKind.NOTICE, position),
            ]
        return found

    def _end_of_call(self, at: int) -> tuple[int, int]:
        """Return where the call that mark ``at`` begins ends, and where the next one begins."""
        text, tags, marks = self.text, self.tags, self.marks
        begin = marks[at][0]
        after = at + 1
        if tags.fenced:
            end = self._after_fence(begin + len(tags.begin) - 1, b"\n" + tags.end)
        else:
            end = marks[after][0] + len(tags.end) if after < len(marks) else -1
            end += text.startswith(b"\n", end) if end >= 0 else 0
        if end < 0:
            raise _never_closed(tags.begin, begin)
        if after < len(marks) and marks[after][1] and marks[after][0] < end:
            raise InputError(f"{_shown(tags.begin)} at byte {marks[after][0]} is inside a call")
        while after < len(marks) and not marks[after][1]:
            after += 1
        return end, marks[after][0] if after < len(marks) else len(text)

    def _end_of_output(self, position: int, next_call: int) -> int:
        """Return the end of the output that begins at ``position``, or ``position``: none does.

        ``next_call``: where the next call begins, or the end of the text.
        An output may itself contain fences: the one followed by a notice closes it; without a
        notice before the next call, the first fence on a line of its own does.
        """
        tags, text = self.tags, self.text
        begin = position
        while text.startswith(b"\n", begin):
            begin += 1
        if not text.startswith(tags.output_begin, begin):
            return position
        inside = begin + len(tags.output_begin)
        closing = b"\n" + tags.output_end + tags.notice_begin
        end = text.find(closing, inside - 1, next_call)
        if end >= 0:
            return end + 1 + len(tags.output_end)
        end = self._after_fence(inside - 1, b"\n" + tags.output_end.rstrip())
        if end < 0:
            raise _never_closed(tags.output_begin, begin)
        return end

    def _end_of_notice(self, position: int) -> int:
        begin = self.tags.notice_begin
        if not self.text.startswith(begin, position):
            return position
        end = self._after_fence(position + len(begin) - 1, self.tags.notice_end)
        if end < 0:
            raise _never_closed(begin, position)
        return end

    def _after_fence(self, position: int, fence: bytes) -> int:
        """Return where the line of ``fence`` ends at or after ``position``; -1: nowhere."""
        text = self.text
        while (position := text.find(fence, position)) >= 0:
            position += len(fence)
            if position == len(text) or text.startswith(b"\n", position):
                return min(position + 1, len(text))
        return -1


def _name_gaps(text: bytes, found: list[tuple[SpanKind | None, int]]) -> list[Border]:
    """Name the text between calls: thinking up to the last ``</think>``, then answer."""
    last, think_end = len(found) - 1, -1
    while last >= 0 and think_end < 0:
        kind, end = found[last]
        if kind is None:
            think_end = text.rfind(_THINK_END, found[last - 1][1] if last else 0, end)
        last -= think_end < 0
    if last < 0 and text.lstrip().startswith(_THINK_BEGIN):
        raise InputError(f"{THINK_BEGIN!r} is never closed")
    borders: list[Border] = []
    for at, (kind, end) in enumerate(found):
        if kind is not None:
            borders.append((kind, end))
        elif at == last:
            think_end += len(_THINK_END)
            while think_end < end and text.startswith(b"\n", think_end):
                think_end += 1
            borders += [(SpanKind.THINKING, think_end), (SpanKind.ANSWER, end)]
        else:
            borders.append((SpanKind.THINKING if at < last else SpanKind.ANSWER, end))
    return borders


def _never_closed(tag: bytes, begin: int) -> InputError:
    return InputError(f"{_shown(tag)} at byte {begin} is never closed")


def _shown(tag: bytes) -> str:
    return repr(tag.decode().strip())
