import io
import logging
import sys

import pytest
from rich.table import Table
from rich.text import Text

from longrun.formats.terminal import VisibleConsole, VisibleStream, protect_streams, visible

ATTACK = "\x1b[31mred\x1b]0;title\x07\r\x08\x9b2J\u202egnp\u2066\ud800[red]x[/] :smile:"
HARMLESS = "plain\ttext\nmathé \U0001f600 [1, 2]"


def obeyed(text: str) -> list[str]:
    return [sign for sign in text if sign not in "\t\n" and not sign.isprintable()]


def replace_streams(monkeypatch):
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


def test_what_a_terminal_obeys_is_spelled_out_and_nothing_else_changes():
    assert obeyed(ATTACK)
    assert not obeyed(visible(ATTACK))
    assert visible("\x1b[0m\u202e") == r"\x1b[0m\u202e"
    assert visible(HARMLESS) == HARMLESS
    assert visible(visible(ATTACK)) == visible(ATTACK)


def test_streams_and_log_lines_are_visible(monkeypatch):
    raw, errors = replace_streams(monkeypatch)
    protect_streams()
    protect_streams()
    assert isinstance(sys.stdout, VisibleStream)
    assert sys.stdout.stream is raw
    print(ATTACK)
    logger = logging.getLogger("visible")
    logger.propagate = False  # half a character in a captured log ends a worker of pytest-xdist
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.warning(ATTACK)
    logger.removeHandler(handler)
    assert raw.getvalue() == errors.getvalue() == visible(ATTACK) + "\n"


@pytest.mark.parametrize("protected", [False, True])
def test_consoles_show_text_and_keep_their_own_styles(protected, monkeypatch):
    raw, _ = replace_streams(monkeypatch)
    if protected:
        protect_streams()
    console = VisibleConsole(width=300)
    table = Table(ATTACK, title=ATTACK)
    table.add_row(ATTACK)
    for printed in (ATTACK, Text(ATTACK), table):
        console.print(printed, highlight=False)
    assert not obeyed(raw.getvalue())
    assert raw.getvalue().count("[red]x[/] :smile:") == 5
    raw.seek(0)
    raw.truncate()
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("TERM", "xterm")
    VisibleConsole(width=300).print(Text("own", style="bold"), Text(ATTACK), highlight=False)
    styles, text = raw.getvalue()[:11], raw.getvalue()[11:]
    assert styles == "\x1b[1mown\x1b[0m"
    assert not obeyed(text)
