"""How a record becomes the text that the model reads: prompts, chat template, code style.

``prepare`` writes ``conversation.json`` beside the documents and every exported model carries a
copy, so training and evaluation cannot differ in a single character. Templates are rendered as
transformers renders them (sandboxed, same whitespace rules and globals); that they agree is
tested. It never tokenizes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from longrun.errors import InputError
from longrun.formats.stages.atomic import write_text
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.placeholders import fill_template, parse_placeholders
from longrun.formats.text.template_frames import Frame, fill_frame, find_frame
from longrun.formats.text.turns import TurnEnd, find_body, opened_thinking

CONVERSATION_NAME = "conversation.json"
RESPONSE_MARK = "\ufdd0"
"""A noncharacter that stands for a response."""
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
                found = [name for _, name, _ in parse_placeholders(text)]
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
            NullColumnError: a placeholder's column is null.
            InputError: the record lacks it, or it holds no text.
        """
        try:
            return fill_template(self.system, record), fill_template(self.user, record)
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
    date: str | None = None
    """The day that stands in ``chat_template`` where it read the clock; None: it reads none."""

    def render(
        self, mode: str, record: Mapping[str, Any], guard: Callable[[str], str] = str
    ) -> str:
        """Return the whole prompt text, up to and including the header of the assistant's turn.

        ``guard`` is applied to the filled texts before the template sees them. An empty system
        text is left to the template: it gets the user's message alone.

        Raises:
            InputError: the mode has no prompt, a column is missing, or the template refuses.
        """
        texts = tuple(map(guard, self.fill(mode, record)))
        frame = _prompt_frame(self.chat_template, self._named, _ROLES[-len(texts) :])
        if frame is not None:
            return fill_frame(frame, texts)
        return render_messages(self.chat_template, as_messages(texts), self.special_tokens)

    def render_turn(
        self,
        mode: str,
        record: Mapping[str, Any],
        response: str,
        guard: Callable[[str], str] = str,
    ) -> tuple[str, str]:
        """Return the prompt and what the model is to write after it, up to the stop token.

        ``guard`` is applied to the texts of the prompt and to the response.

        Raises:
            NoThinkingError: the prompt opens the thinking and the response has none.
            InputError: as ``render``; or as ``turns.find_body``.
        """
        texts = tuple(map(guard, self.fill(mode, record)))
        roles = _ROLES[-len(texts) :]
        shape = _turn_shape(self.chat_template, self._named, roles, self.stop)
        response = guard(response)
        if shape.placed:
            assert shape.prompt is not None
            return fill_frame(shape.prompt, texts), response + shape.end.body
        prompt = self.render(mode, record, guard)
        messages = [*as_messages(texts), {"role": "assistant", "content": response}]
        whole = render_messages(
            self.chat_template, messages, self.special_tokens, add_generation_prompt=False
        )
        return prompt, find_body(prompt, whole, response, shape.end)

    @property
    def _named(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.special_tokens.items())

    def fill(self, mode: str, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts before the response: the system's, if it is not empty, and the user's.

        Raises:
            InputError: the mode has no prompt, or a column is missing.
        """
        if mode not in self.prompts:
            known = ", ".join(sorted(self.prompts))
            raise InputError(f"inference_mode {mode!r} has no prompt; known: {known}")
        system, user = self.prompts[mode].fill(record)
        return (system, user) if system else (user,)

    def save(self, folder: Path) -> None:
        """Write ``conversation.json`` into ``folder``."""
        content = asdict(self)
        if self.date is None:
            del content["date"]
        write_text(folder / CONVERSATION_NAME, json.dumps(content, indent=2, sort_keys=True))

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
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
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


def parse_template(chat_template: str) -> nodes.Template:
    """Parse a chat template.

    Raises:
        InputError: it is not valid.
    """
    try:
        return _environment().parse(chat_template)
    except jinja2.TemplateError as error:
        raise InputError(f"chat template: {error.message or error}") from None


def turn_end(
    chat_template: str, special_tokens: Mapping[str, str], roles: tuple[str, ...], stop: str
) -> TurnEnd:
    """Return what a chat template writes after a response, cut before the token ``stop``."""
    texts = ("?",) * len(roles)
    messages = [*as_messages(texts), {"role": "assistant", "content": RESPONSE_MARK}]
    text = render_messages(chat_template, messages, special_tokens, add_generation_prompt=False)
    body, found, rest = text.rpartition(RESPONSE_MARK)[2].partition(stop)
    return TurnEnd(body, found + rest) if found else TurnEnd("", body)


class _TurnShape(NamedTuple):
    """How a template renders the assistant's turn after messages of certain roles."""

    prompt: Frame | None
    end: TurnEnd
    placed: bool
    """The turn is the prompt, the response as it is, and ``end``, whatever the texts are."""


@lru_cache(maxsize=8)
def _turn_shape(
    chat_template: str,
    special_tokens: tuple[tuple[str, str], ...],
    roles: tuple[str, ...],
    stop: str,
) -> _TurnShape:
    named = dict(special_tokens)
    end = turn_end(chat_template, named, roles, stop)
    prompt = _prompt_frame(chat_template, special_tokens, roles)
    if prompt is None:
        return _TurnShape(None, end, placed=False)

    def render(messages: list[dict[str, str]]) -> str:
        return render_messages(chat_template, messages, named, add_generation_prompt=False)

    whole = find_frame(render, (*roles, "assistant"))
    placed = whole is not None and whole == (*prompt, len(roles), end.body + end.rest)
    return _TurnShape(prompt, end, placed and not opened_thinking(str(prompt[-1])))


def as_messages(texts: Sequence[str]) -> list[dict[str, str]]:
    """Return the messages before the response; ``texts`` as ``Conversation.fill`` gives them."""
    roles = _ROLES[-len(texts) :]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


@lru_cache(maxsize=8)
def _prompt_frame(
    chat_template: str, special_tokens: tuple[tuple[str, str], ...], roles: tuple[str, ...]
) -> Frame | None:
    """Return the frame of a prompt's messages; see ``longrun.formats.text.template_frames``."""

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
