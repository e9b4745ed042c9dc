"""Chat templates whose text depends on nothing but the messages.

A template may read the clock, and it may write the end token of its tokenizer, which an export
changes to the token that ends a response. Both are written into the template as they were when the
documents were made, so that generation and every later reader of the export render the same.
"""

import ast
import re
from datetime import date, datetime, time

from jinja2 import nodes

from longrun.errors import InputError
from longrun.formats.text.conversation import parse_template

_CLOCK = "strftime_now"
_TEXT = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_CALL = re.compile(rf"\b{_CLOCK}\(\s*(?:\w+\s*=\s*)?({_TEXT})\s*\)")


def fix_date(chat_template: str, day: date) -> str:
    """Return a chat template in which every reading of the clock is ``day``, at midnight.

    >>> fix_date("Today is {{ strftime_now('%d %b %Y') }}.", date(2026, 12, 1))
    "Today is {{ '01 Dec 2026' }}."

    Raises:
        InputError: the clock is read in a form that is not known when it is read.
    """
    moment = datetime.combine(day, time())

    def write(call: re.Match[str]) -> str:
        return _literal(moment.strftime(ast.literal_eval(call[1])))

    fixed = _CALL.sub(write, chat_template)
    if _CLOCK in fixed and _reads_clock(fixed):
        raise InputError(
            f"chat template: {_CLOCK} is called with something other than a text, so that the date"
            " cannot be fixed; write the date into a .jinja file and set chat_template to it"
        )
    return fixed


def fix_token(chat_template: str, name: str, content: str) -> str:
    """Return a chat template in which the variable ``name`` is ``content``, whoever renders it."""
    # A newline right after a block is taken away, so one that is the template's needs another.
    gap = "\n" if chat_template.startswith("\n") else ""
    return f"{{% set {name} = {_literal(content)} %}}{gap}{chat_template}"


def names_variable(chat_template: str, name: str) -> bool:
    """Say whether a chat template reads the variable ``name``."""
    return name in chat_template and any(
        found.name == name and found.ctx == "load" for found in _parse(chat_template)
    )


def _reads_clock(chat_template: str) -> bool:
    tested = [node.node for node in parse_template(chat_template).find_all(nodes.Test)]
    asked = sum(isinstance(node, nodes.Name) and node.name == _CLOCK for node in tested)
    return sum(found.name == _CLOCK for found in _parse(chat_template)) > asked


def _parse(chat_template: str) -> list[nodes.Name]:
    return list(parse_template(chat_template).find_all(nodes.Name))


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
