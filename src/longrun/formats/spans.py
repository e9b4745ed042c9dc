r"""Typed spans: what each stretch of a document is, decided where the text is made.

A solution is cut by its literal tags, left to right. The worked trace, with ``|`` at the cuts::

    <think>\nTry it.\n|<tool_call>\nprint(6)\n</tool_call>\n|```output\n6\n```\n|
    THINKING          |CODE                                |TOOL_OUTPUT           |
    ```system\nRemaining code executions: 1.\n```\n|So 6.\n</think>\n|It is \boxed{6}.
    NOTICE                                        |THINKING          |ANSWER

An output is recognised only right after a code call and a notice only right after an output or
a call, so the same words inside the reasoning stay reasoning. Nothing is ever changed: the pieces
joined are the text. Text is UTF-8 bytes here, because the borders of spans are counted in bytes.
"""

from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from longrun.errors import InputError
from longrun.formats.code_style import CodeStyle

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
RawPiece = tuple[SpanKind, bytes]
"""A piece as UTF-8, as it is on its way to the tokenizer."""

WRITTEN_BY_TOOL = frozenset({SpanKind.TOOL_OUTPUT, SpanKind.NOTICE})
"""Kinds that the environment appends during generation; every other kind is the model's."""


def split_response(text: bytes, code: CodeStyle | None) -> list[RawPiece]:
    """Cut a solution into typed pieces; the pieces joined are ``text``.

    Thinking runs up to and including ``</think>`` and the newlines after it; without such a tag
    the whole is an answer. ``code`` None: code calls are ordinary text (modes without a tool).

    Raises:
        InputError: a tag is opened and never closed, closed and never opened, or opened twice.
    """
    cut: list[tuple[SpanKind | None, bytes]] = [(None, text)]
    if code is not None:
        cut = _Cutter(text, _tags_of(code)).cut()
    return [piece for piece in _name_gaps(cut) if piece[1]]


class _Tags(NamedTuple):
    """The literal texts of a code style, as bytes."""

    begin: bytes
    end: bytes
    """Without the newline after it."""
    output_begin: bytes
    output_end: bytes
    notice_begin: bytes
    notice_end: bytes
    fenced: bool
    """The closing tag is a bare fence, which also opens and closes ordinary blocks."""


@lru_cache(maxsize=8)
def _tags_of(code: CodeStyle) -> _Tags:
    end = code.end.rstrip("\n").encode()
    begin = code.begin.encode()
    return _Tags(
        begin=begin,
        end=end,
        output_begin=code.output_begin.encode(),
        output_end=code.output_end.encode(),
        notice_begin=code.notice_begin.encode(),
        notice_end=code.notice_end.rstrip().encode(),
        fenced=begin.startswith(end),
    )


class _Cutter:
    """Cuts out code calls, outputs and notices; the text between them has the kind None."""

    def __init__(self, text: bytes, tags: _Tags) -> None:
        self.text = text
        self.tags = tags

    def cut(self) -> list[tuple[SpanKind | None, bytes]]:
        found: list[tuple[SpanKind | None, bytes]] = []
        position, begin = 0, self._next_call(0)
        while begin >= 0:
            found.append((None, self._gap(position, begin)))
            end = self._end_of_call(begin)
            following = self._next_call(end)
            output = self._end_of_output(end, following)
            position = self._end_of_notice(output)
            found.append((SpanKind.CODE, self.text[begin:end]))
            found.append((SpanKind.TOOL_OUTPUT, self.text[end:output]))
            found.append((SpanKind.NOTICE, self.text[output:position]))
            # An output may show what looks like the beginning of a call.
            begin = following if following >= position else self._next_call(position)
        found.append((None, self._gap(position, len(self.text))))
        return [(kind, piece) for kind, piece in found if piece]

    def _next_call(self, position: int) -> int:
        return self.text.find(self.tags.begin, position)

    def _gap(self, begin: int, end: int) -> bytes:
        if not self.tags.fenced and self.text.find(self.tags.end, begin, end) >= 0:
            raise InputError(f"{_shown(self.tags.end)} closes a code call that was never opened")
        return self.text[begin:end]

    def _end_of_call(self, begin: int) -> int:
        inside = begin + len(self.tags.begin)
        if self.tags.fenced:
            end = self._after_fence(inside - 1, b"\n" + self.tags.end)
        else:
            found = self.text.find(self.tags.end, inside)
            end = found + len(self.tags.end) if found >= 0 else -1
            end += self.text.startswith(b"\n", end) if end >= 0 else 0
        if end < 0:
            raise _never_closed(self.tags.begin, begin)
        again = self.text.find(self.tags.begin, inside, end)
        if again >= 0:
            raise InputError(f"{_shown(self.tags.begin)} at byte {again} is inside a call")
        return end

    def _end_of_output(self, position: int, next_call: int) -> int:
        """Return the end of the output that begins at ``position``, or ``position``: none does.

        ``next_call``: where the next call begins; -1: nowhere.
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
        end = text.find(closing, inside - 1, next_call if next_call >= 0 else len(text))
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


def _name_gaps(cut: list[tuple[SpanKind | None, bytes]]) -> list[RawPiece]:
    """Name the text between calls: thinking up to ``</think>``, then answer."""
    ends = [-1 if kind is not None else piece.find(_THINK_END) for kind, piece in cut]
    last = next((at for at, end in enumerate(ends) if end >= 0), -1)
    if last < 0 and cut and cut[0][0] is None and cut[0][1].lstrip().startswith(_THINK_BEGIN):
        raise InputError(f"{THINK_BEGIN!r} is never closed")
    pieces: list[RawPiece] = []
    for at, (kind, piece) in enumerate(cut):
        if kind is not None:
            pieces.append((kind, piece))
        elif at == last:
            end = ends[at] + len(_THINK_END)
            while piece.startswith(b"\n", end):
                end += 1
            pieces += [(SpanKind.THINKING, piece[:end]), (SpanKind.ANSWER, piece[end:])]
        else:
            pieces.append((SpanKind.THINKING if at < last else SpanKind.ANSWER, piece))
    return pieces


def _never_closed(tag: bytes, begin: int) -> InputError:
    return InputError(f"{_shown(tag)} at byte {begin} is never closed")


def _shown(tag: bytes) -> str:
    return repr(tag.decode().strip())
