"""Prompt texts and chat templates by name: built-in ones and the user's own files.

A prompt file is YAML with ``user`` and optionally ``system``, both ``str.format`` texts over the
columns of a record. The built-in ones lie in ``prompts/``.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

import longrun.formats
from longrun.config.base import nearest
from longrun.config.values import Mode, is_prompt_file
from longrun.errors import InputError
from longrun.formats.conversation import Prompt
from longrun.formats.tokenizer_folder import own_chat_template

_PROMPTS = Path(__file__).parent / "prompts"
_TEMPLATES = Path(longrun.formats.__file__).parent / "templates"
OWN_TEMPLATE = "tokenizer"
"""The name that stands for the template which the tokenizer itself carries."""


def prompt_path(name: str) -> Path:
    """Return the file of a prompt: a path that ends in ``.yaml``, or the name of a built-in one.

    Raises:
        InputError: there is no such prompt.
    """
    return _file_named(name, _PROMPTS, ".yaml", "prompt")


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


def load_prompt(path: Path) -> Prompt:
    """Read one prompt file.

    Raises:
        InputError: it is not YAML, has an unknown key, no ``user``, or an unusable placeholder.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError.at(path, None, f"is not valid YAML ({error})") from None
    if not isinstance(content, dict) or "user" not in content:
        raise InputError.at(path, None, "a prompt needs the key user, a text with placeholders")
    for key, value in content.items():
        if key not in ("user", "system"):
            raise InputError.at(
                path, None, f"unknown key {key}; {nearest(str(key), ['user', 'system'])}"
            )
        if not isinstance(value, str):
            raise InputError.at(path, None, f"{key} must be text, not {type(value).__name__}")
    prompt = Prompt(system=content.get("system", ""), user=content["user"])
    try:
        prompt.fields()
    except InputError as error:
        raise InputError.at(path, None, str(error)) from None
    return prompt


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
