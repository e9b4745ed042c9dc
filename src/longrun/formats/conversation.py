"""How a record becomes the text that the model reads: prompts, chat template, code style.

``prepare`` writes ``conversation.json`` beside the documents and every exported model carries a
copy, so training and evaluation cannot differ in a single character. Templates are rendered as
transformers renders them (sandboxed, same whitespace rules and globals); that they agree is
tested. It never tokenizes.
"""

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from longrun.errors import InputError
from longrun.formats.atomic import write_text
from longrun.formats.code_style import CodeStyle
from longrun.formats.frames import Frame, fill_frame, find_frame

CONVERSATION_NAME = "conversation.json"
_ROLES = ("system", "user")
_COPYING: tuple[type[nodes.Node], ...] = (
    nodes.AssignBlock,
    nodes.CallBlock,
    nodes.Concat,
    nodes.FilterBlock,
    nodes.Macro,
    nodes.Mod,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The two messages before the response, with ``str.format`` placeholders.

    Filling is a single pass, so braces inside the values of a record are ordinary characters.
    """

    system: str
    user: str

    def fields(self) -> frozenset[str]:
        """Return the names of the placeholders.

        Raises:
            InputError: a brace is unbalanced or a placeholder is not a plain name.
        """
        names: set[str] = set()
        for text in (self.system, self.user):
            try:
                found = [name for _, name, _, _ in string.Formatter().parse(text)]
            except ValueError as error:
                raise InputError(f"prompt {text!r:.60}: {error}; double a literal brace") from None
            names.update(name for name in found if name is not None)
        for name in sorted(names):
            if not name.isidentifier():
                raise InputError(f"prompt: placeholder {{{name}}} is not the name of a column")
        return frozenset(names)

    def fill(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """Return the system and the user text of ``record``.

        Raises:
            InputError: the record lacks a placeholder's column.
        """
        try:
            return self.system.format_map(record), self.user.format_map(record)
        except KeyError as error:
            raise InputError(
                f"column {error.args[0]} is missing, the prompt needs it; add it to the records,"
                " map it with `columns`, or change the prompt"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Everything that decides the text around a solution."""

    prompts: dict[str, Prompt]
    """Mode -> prompt."""
    chat_template: str
    """Jinja text."""
    code: CodeStyle
    stop: str
    """The token that ends a response, as ``<|im_end|>``."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """What the template may name: ``bos_token`` and the like."""

    def render(
        self, mode: str, record: Mapping[str, Any], guard: Callable[[str], str] = str
    ) -> str:
        """Return the whole prompt text, up to and including the header of the assistant's turn.

        ``guard`` is applied to the filled texts before the template sees them. An empty system
        text is left to the template: it gets the user's message alone.

        Raises:
            InputError: the mode has no prompt, a column is missing, or the template refuses.
        """
        if mode not in self.prompts:
            known = ", ".join(sorted(self.prompts))
            raise InputError(f"inference_mode {mode!r} has no prompt; known: {known}")
        system, user = self.prompts[mode].fill(record)
        texts = (guard(system), guard(user)) if system else (guard(user),)
        named = tuple(self.special_tokens.items())
        frame = _prompt_frame(self.chat_template, named, _ROLES[-len(texts) :])
        if frame is not None:
            return fill_frame(frame, texts)
        messages = [
            {"role": role, "content": text}
            for role, text in zip(_ROLES[-len(texts) :], texts, strict=True)
        ]
        return render_messages(self.chat_template, messages, self.special_tokens)

    def save(self, folder: Path) -> None:
        """Write ``conversation.json`` into ``folder``."""
        write_text(folder / CONVERSATION_NAME, json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "Conversation":
        """Read ``conversation.json`` from ``folder``.

        Raises:
            InputError: it is absent or damaged.
        """
        path = folder / CONVERSATION_NAME
        if not path.is_file():
            raise InputError.at(
                folder,
                None,
                f"has no {CONVERSATION_NAME}; name an output of prepare or a model made by Longrun",
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            prompts = {mode: Prompt(**prompt) for mode, prompt in raw.pop("prompts").items()}
            return cls(prompts=prompts, code=CodeStyle(**raw.pop("code")), **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError.at(path, None, f"is damaged ({error}); run prepare again") from None


def render_messages(
    chat_template: str,
    messages: list[dict[str, str]],
    special_tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Render a chat template as transformers does.

    Raises:
        InputError: the template is not valid or refuses the messages.
    """
    variables = {"tools": None, "documents": None, **special_tokens}
    try:
        return _compile(chat_template).render(
            messages=messages, add_generation_prompt=add_generation_prompt, **variables
        )
    except jinja2.TemplateError as error:
        raise InputError(f"chat template: {error.message or error}") from None


@lru_cache(maxsize=8)
def _prompt_frame(
    chat_template: str, special_tokens: tuple[tuple[str, str], ...], roles: tuple[str, ...]
) -> Frame | None:
    """Return the frame of a prompt's messages; see ``longrun.formats.frames``."""

    def render(messages: list[dict[str, str]]) -> str:
        return render_messages(chat_template, messages, dict(special_tokens))

    return None if _copies_texts(chat_template) else find_frame(render, roles)


def _copies_texts(chat_template: str) -> bool:
    """Say whether a template makes new strings of messages where nobody could watch them."""
    parsed = _environment().parse(chat_template)
    named = [node.name for node in parsed.find_all(nodes.Filter)]
    named += [node.attr for node in parsed.find_all(nodes.Getattr)]
    copying = any(parsed.find(kind) is not None for kind in _COPYING)
    return copying or not {"format", "join"}.isdisjoint(named)


class _GenerationBlock(Extension):
    """Let ``{% generation %}`` blocks through; transformers uses them to mark what it masks."""

    tags = {"generation"}  # noqa: RUF012  (the base class declares a plain attribute)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_through"), [], [], body).set_lineno(line)

    def _through(self, caller: Callable[[], str]) -> str:
        return caller()


@lru_cache(maxsize=8)
def _compile(chat_template: str) -> jinja2.Template:
    return _environment().from_string(chat_template)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
