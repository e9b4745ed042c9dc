r"""Prompt texts and chat templates by name: built-in ones and the user's own files.

A prompt file is YAML with ``user`` and optionally ``system``, both ``str.format`` texts over the
columns of a record. The built-in ones lie in ``prompts/``. Worked examples come first where
``user`` has ``{examples}``::

    user: "{examples}Solve: {problem}"
    few_shot_examples:
      template: "Problem: {problem}\nSolution: {solution}\n\n"
      prefix: "Here are some examples.\n\n"
      examples: [{problem: 1 + 1, solution: "2"}]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import longrun.formats
import longrun.formats.text
from longrun.config.plain_yaml import parse_yaml_value
from longrun.config.reading import read_text
from longrun.config.settings import nearest
from longrun.config.stages import PrepareConfig
from longrun.config.values import Mode, is_prompt_file
from longrun.errors import InputError
from longrun.formats.text.conversation import Prompt
from longrun.formats.text.tokenizer_folder import find_chat_template, own_chat_template

_PROMPTS = Path(__file__).parent / "prompts"
_KEYS = ("user", "system")
_FEW_SHOT = ("template", "prefix", "suffix")
Examples = Sequence[Mapping[str, Any]]
_TEMPLATES = Path(longrun.formats.text.__file__).parent / "templates"
REFERENCE_NAMES = {"generic/math": "math", "openmath/tir": "math-tir"}
"""What the reference calls prompts -> the built-in ones of the same form, in our words."""
_PLAIN_TEMPLATE = "chatml"
OWN_TEMPLATE = "tokenizer"
"""The name that stands for the template which the tokenizer itself carries."""


def prompt_path(name: str) -> Path:
    """Return the file of a prompt: a path that ends in ``.yaml``, or the name of a built-in one.

    Raises:
        InputError: there is no such prompt.
    """
    return _file_named(REFERENCE_NAMES.get(name, name), _PROMPTS, ".yaml", "prompt")


def choose_template(config: PrepareConfig) -> str:
    """Return the name of the chat template: the one named, else the tokenizer's own.

    Tokenizers without one get the built-in one, and so do ready records: their layout says it.
    """
    if config.chat_template is not None:
        return config.chat_template
    ready = any(source.layout is not None for source in config.data)
    own = not ready and find_chat_template(config.tokenizer) is not None
    return OWN_TEMPLATE if own else _PLAIN_TEMPLATE


def load_template(name: str, tokenizer: Path) -> str:
    """Return the text of a chat template; ``tokenizer`` is the tokenizer's folder.

    Raises:
        InputError: there is no such template.
    """
    if name == OWN_TEMPLATE:
        return own_chat_template(tokenizer)
    return _file_named(name, _TEMPLATES, ".jinja", "chat_template").read_text(encoding="utf-8")


def load_prompts(names: Mapping[Mode, str]) -> dict[str, Prompt]:
    """Read the prompt of every mode: ``{mode: name or path}``.

    Raises:
        InputError: a prompt does not exist or says something other than ``user`` and ``system``.
    """
    return {str(mode): load_prompt(prompt_path(name)) for mode, name in names.items()}


def load_prompt(path: Path, examples: Examples | None = None) -> Prompt:
    """Read one prompt file; ``examples`` stand in for those it names.

    Raises:
        ConfigError: there is no such file, or it is not YAML.
        InputError: it has an unknown key, no ``user``, or an unusable placeholder.
    """
    content = parse_yaml_value(read_text(path), str(path))
    return read_prompt(content, str(path), examples)


def read_prompt(content: Any, where: str, examples: Examples | None = None) -> Prompt:
    """Check the content of a prompt file and put its examples into it; see ``load_prompt``."""
    if not isinstance(content, Mapping) or "user" not in content:
        raise InputError(f"{where}: a prompt needs the key user, a text with placeholders")
    few_shot = content.get("few_shot_examples", {})
    _check_texts({key: content[key] for key in content if key != "few_shot_examples"}, _KEYS, where)
    user = content["user"]
    if examples is not None or few_shot:
        user = user.replace("{examples}", _render_examples(few_shot, examples, where))
    prompt = Prompt(system=content.get("system", ""), user=user)
    try:
        prompt.fields()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return prompt


def _render_examples(few_shot: Any, examples: Examples | None, where: str) -> str:
    """Return the block of worked examples as part of a ``str.format`` text: braces doubled."""
    place = f"{where}: few_shot_examples"
    if not isinstance(few_shot, Mapping) or "template" not in few_shot:
        raise InputError(f"{place} needs the key template, a text with placeholders")
    _check_texts({key: few_shot[key] for key in few_shot if key != "examples"}, _FEW_SHOT, place)
    chosen = few_shot.get("examples", []) if examples is None else examples
    if not isinstance(chosen, Sequence) or not all(isinstance(one, Mapping) for one in chosen):
        raise InputError(f"{place}: examples must be a list of records")
    if not chosen:
        return ""
    template = Prompt(system="", user=few_shot["template"])
    try:
        shown = [template.fill(one)[1] for one in chosen]
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    text = "".join([few_shot.get("prefix", ""), *shown, few_shot.get("suffix", "")])
    return text.replace("{", "{{").replace("}", "}}")


def _check_texts(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key}; {nearest(str(key), list(known))}")
        if not isinstance(value, str):
            raise InputError(f"{where}: {key} must be text, not {type(value).__name__}")


def _file_named(name: str, folder: Path, suffix: str, setting: str) -> Path:
    if is_prompt_file(name):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{setting} {name}: there is no such file")
        return path
    known = [path.stem for path in folder.glob(f"*{suffix}")]
    if name not in known:
        raise InputError(
            f"{setting} {name!r} is not built in ({nearest(name, known)}); a file of your own"
            f" ends in {suffix}"
        )
    return folder / f"{name}{suffix}"
