r"""Prompts for other programs: ``get_prompt(config, template).fill(record)``.

A *config* is the text (``system``, ``user``, a few-shot block), a *template* the literal tokens
around messages. With a template a filled prompt is one string, without one a list of messages::

    get_prompt("as-is", "qwen-instruct").fill({"problem": "1 + 1?"})
    '<|im_start|>system\n<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n'

The system turn is always there, also when its text is empty, as in the built-in chat template of
``prepare``. ``prepare`` itself renders Jinja templates; that both agree is tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from longrun.config.plain_yaml import parse_yaml_value
from longrun.config.reading import read_text
from longrun.config.settings import nearest
from longrun.data.records.prompts import load_prompt, prompt_path, read_prompt
from longrun.errors import InputError
from longrun.formats.text.conversation import Prompt

_LAYOUTS = Path(__file__).with_name("prompt_templates.yaml")
_GENERATION = "generation"
"""Column of a response that is there already."""
Message = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The literal texts around messages."""

    text_begin: str
    system_begin: str
    system_end: str
    user_begin: str
    user_end: str
    assistant_begin: str
    assistant_end: str
    stop_phrases: tuple[str, ...] = ()
    """Texts at which sampling ends."""
    code_begin: str = "<llm-code>\n"
    code_end: str = "</llm-code>\n"
    code_output_begin: str = "<llm-code-output>\n"
    code_output_end: str = "</llm-code-output>\n"

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> "Layout":
        """Check ``values``; ``where`` leads every message.

        Raises:
            InputError: a key is unknown or missing.
        """
        known = [one.name for one in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"{where}: unknown key {name}; {nearest(name, known)}")
        stops = {"stop_phrases": tuple(values.get("stop_phrases") or ())}
        try:
            return cls(**{**values, **stops})
        except TypeError as error:
            raise InputError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """A prompt's texts, and the literal texts around its messages."""

    prompt: Prompt
    template: Layout | None
    """None: message mode."""


@dataclass(frozen=True, slots=True)
class Fillable:
    """A prompt config and its template."""

    config: PromptConfig

    @property
    def stop_phrases(self) -> list[str]:
        """Texts at which sampling ends; none in message mode."""
        return list(self.config.template.stop_phrases) if self.config.template else []

    def fill(
        self,
        input_dict: Mapping[str, Any],
        prefix_generation_to_response: bool = False,
        continue_prefix_generation: bool = False,
        multi_turn_key: str | None = None,
    ) -> str | list[Message]:
        """Return the prompt of ``input_dict``: a string with a template, messages without one.

        ``prefix_generation_to_response``: put the column ``generation`` after the header of the
        assistant's turn, closed unless ``continue_prefix_generation``. ``multi_turn_key``: column
        with a list of turns, each a record of its own; all but the last have the key ``assistant``.

        Raises:
            InputError: a column or a turn's ``assistant`` is missing.
        """
        prompt, layout = self.config.prompt, self.config.template
        turns = [input_dict] if multi_turn_key is None else _turns_of(input_dict, multi_turn_key)
        system = prompt.fill({**input_dict, **turns[0]})[0]
        messages = [{"role": "system", "content": system}]
        for number, turn in enumerate(turns):
            filled = {**input_dict, **turn}
            messages.append({"role": "user", "content": prompt.fill(filled)[1]})
            if number < len(turns) - 1:
                messages.append({"role": "assistant", "content": _text(turn, "assistant")})
        response = _text(input_dict, _GENERATION) if prefix_generation_to_response else None
        if layout is None:
            if response is not None:
                messages.append({"role": "assistant", "content": response})
            return messages if system else messages[1:]
        text = _render(layout, messages) + layout.assistant_begin
        if response is None:
            return text
        return text + response + ("" if continue_prefix_generation else layout.assistant_end)


def get_prompt(
    prompt_config: str | Mapping[str, Any],
    prompt_template: str | Mapping[str, Any] | None = None,
    *,
    examples: Sequence[Mapping[str, Any]] | None = None,
) -> Fillable:
    """Return a prompt by the names of its config and template.

    Each may be a name that is built in, a path that ends in ``.yaml``, or a mapping. No template:
    message mode. ``examples`` stand in for those of the config's few-shot block.

    Raises:
        ConfigError: there is no such file, or it is not YAML.
        InputError: there is no such template, or it has an unknown or missing key.
    """
    if isinstance(prompt_config, str):
        prompt = load_prompt(prompt_path(prompt_config), examples)
    else:
        prompt = read_prompt(prompt_config, "prompt config", examples)
    layout = None if prompt_template is None else find_layout(prompt_template)
    return Fillable(PromptConfig(prompt, layout))


def find_layout(template: str | Mapping[str, Any]) -> Layout:
    """Return the layout of a template: its name, a path that ends in ``.yaml``, or a mapping.

    Raises:
        InputError: see ``get_prompt``.
    """
    if isinstance(template, Mapping):
        return Layout.parse(template, "prompt template")
    own = template.endswith((".yaml", ".yml"))
    path = Path(template) if own else _LAYOUTS
    content = parse_yaml_value(read_text(path), str(path))
    if own:
        if not isinstance(content, dict):
            raise InputError.at(path, None, "is not a prompt template, a mapping of texts")
        return Layout.parse(content, str(path))
    if template not in content:
        raise InputError(f"prompt template {template!r}: {nearest(template, list(content))}")
    return Layout.parse(content[template], template)


def _render(layout: Layout, messages: Sequence[Message]) -> str:
    parts = [layout.text_begin]
    around = {
        "system": (layout.system_begin, layout.system_end),
        "user": (layout.user_begin, layout.user_end),
        "assistant": (layout.assistant_begin, layout.assistant_end),
    }
    for message in messages:
        begin, end = around[message["role"]]
        parts += [begin, message["content"], end]
    return "".join(parts)


def _turns_of(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    turns = record.get(key)
    if not isinstance(turns, list) or not turns or not all(isinstance(one, dict) for one in turns):
        raise InputError(f"column {key}: a list of turns is needed, got {turns!r:.40}")
    return turns


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise InputError(f"key {key}: text is needed, got {value!r:.40}")
    return value
