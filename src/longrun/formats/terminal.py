r"""The border to the terminal: whatever is printed is text there, never a command.

Problems, solutions, names of folders and answers of servers come from others. An escape sequence in
them would move the cursor, rewrite what was printed or change the title; a mark of direction would
show a line in another order than it has. So every stream and console of the command line writes
such characters as Python spells them, ``\x1b``. Rich's markup (``[red]``) is off: a style is given
as a style, and brackets of others are brackets.
"""

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_COMMANDS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
    "\\ud800-\\udfff\\ufff9-\\ufffb\\U000e0000-\\U000e007f]"
)
"""Control characters but tab and newline, marks of direction, half characters, invisible tags."""


def visible(text: str) -> str:
    r"""Return ``text`` with every character that a terminal obeys spelled out.

    a\x1b[31mb c
    """
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


class VisibleStream:
    """A text stream that writes only what can be seen."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the visible form of ``text``."""
        self.stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write every one of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the stream."""
        return getattr(self.stream, name)


class VisibleConsole(Console):
    """A console whose own styles are the only commands it sends; it reads no markup."""

    def __init__(self, *, width: int | None = None, stderr: bool = False) -> None:
        """Print to this process's output, or to its errors; ``width`` None: the terminal's."""
        stream = sys.stderr if stderr else sys.stdout
        raw = stream.stream if isinstance(stream, VisibleStream) else stream
        super().__init__(file=raw, width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make the text of a cell or a line, visible before its width is measured."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of ``renderable``, its text visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def protect_streams() -> None:
    """Let this process's output and errors write only what can be seen."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, VisibleStream):
            setattr(sys, name, VisibleStream(stream))
