"""Records as ``prepare`` expects them, also from records whose prompt is filled in already.

A ready record has the whole prompt as ``input`` and the response as ``output``, as the script of
an earlier pipeline wrote them. It is taken apart into the columns that filled the prompt, and is
refused unless filling it again gives the same text: so documents, splits by problem and the
conversation of the exported model are those of the raw records.
"""

import re
import string
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from longrun.data.records.filters import require_text
from longrun.data.records.prompt_templates import Layout, find_layout
from longrun.data.records.sources import SourceFile, map_columns
from longrun.errors import InputError
from longrun.formats.text.conversation import Conversation, Prompt

PLAIN_MODE = "cot"
"""Mode of ready records that do not say it."""


def expected_record(
    raw: Mapping[str, Any], file: SourceFile, conversation: Conversation
) -> Mapping[str, Any]:
    """Return a raw record of ``file`` with the expected columns.

    Raises:
        InputError: see ``map_columns`` and ``take_apart``.
    """
    record = map_columns(file.columns, raw) if file.columns else raw
    return record if file.layout is None else take_apart(record, file.layout, conversation)


def take_apart(
    record: Mapping[str, Any], layout_name: str, conversation: Conversation
) -> dict[str, Any]:
    """Return a ready record as the raw record that it was made of.

    Raises:
        InputError: the prompt is not in that layout, does not follow the prompt of its mode, or
            the chat template would render it differently.
    """
    text, response = require_text(record, "input"), require_text(record, "output")
    mode = require_text(record, "inference_mode") if "inference_mode" in record else PLAIN_MODE
    layout = _layout_named(layout_name)
    messages = _prompt_pattern(layout).fullmatch(text)
    if messages is None:
        raise InputError(
            f"column input: is no prompt in the layout {layout_name}, as"
            f" get_prompt(config, {layout_name!r}).fill(record) makes it"
        )
    if mode not in conversation.prompts:
        known = ", ".join(sorted(conversation.prompts))
        raise InputError(f"inference_mode {mode!r} has no prompt; known: {known}")
    values = _values(conversation.prompts[mode], messages["system"], messages["user"])
    if values is None:
        raise InputError(
            f"column input: does not follow the prompt of mode {mode}; set prompts.{mode} to the"
            " prompt config that filled it in, or to as-is"
        )
    if conversation.render(mode, values) != text:
        raise InputError(
            f"column input: the chat template renders it differently than the layout"
            f" {layout_name}; set chat_template to the one that belongs to the layout"
        )
    solution = response.removesuffix(layout.assistant_end)
    return {**record, **values, "inference_mode": mode, "generated_solution": solution}


@lru_cache(maxsize=8)
def _layout_named(name: str) -> Layout:
    return find_layout(name)


@lru_cache(maxsize=8)
def _prompt_pattern(layout: Layout) -> re.Pattern[str]:
    before = re.escape(layout.text_begin + layout.system_begin)
    between = re.escape(layout.system_end + layout.user_begin)
    after = re.escape(layout.user_end + layout.assistant_begin)
    return re.compile(f"{before}(?P<system>.*?){between}(?P<user>.*){after}", re.DOTALL)


def _values(prompt: Prompt, system: str, user: str) -> dict[str, str] | None:
    """Return the columns that fill ``prompt`` to these texts; None: there are none."""
    found = [
        _pattern_of(text).fullmatch(filled)
        for text, filled in ((prompt.system, system), (prompt.user, user))
    ]
    if None in found:
        return None
    return {name: value for match in found if match for name, value in match.groupdict().items()}


@lru_cache(maxsize=16)
def _pattern_of(text: str) -> re.Pattern[str]:
    """Return the pattern of a ``str.format`` text; each placeholder is a group of its name."""
    pattern, seen = "", set[str]()
    for literal, name, _, _ in string.Formatter().parse(text):
        pattern += re.escape(literal)
        if name is not None:
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.*?)"
            seen.add(name)
    return re.compile(pattern, re.DOTALL)
