"""A Hugging Face tokenizer folder: its config, its chat template, and a copy that carries ours.

It reads and writes files; what the tokens of a text are is in ``longrun.formats.tokens``.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun.errors import InputError
from longrun.formats.atomic import write_text
from longrun.formats.conversation import Conversation, render_messages
from longrun.formats.tokenizer_file import decode_file, read_bytes
from longrun.formats.tokens import TOKENIZER_FILE

CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_COPIED = (TOKENIZER_FILE, "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
_SPECIAL_MAP_FILE = "special_tokens_map.json"
_CONTROL_SHAPE = re.compile(r"<\|[^<>|\s]+\|>")
_MARK = "\ufdd0"
"""A noncharacter that stands for a response."""


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Read ``tokenizer_config.json``; a folder may do without one.

    Raises:
        InputError: the folder holds no tokenizer, or the file is damaged.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        raise InputError.at(
            folder,
            None,
            f"has no {TOKENIZER_FILE}; name a Hugging Face folder with a fast tokenizer",
        )
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError.at(path, None, f"is not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError.at(path, None, "is not a JSON object")
    return config


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the named tokens of a tokenizer config: ``{"eos_token": "<|endoftext|>", ...}``."""
    found = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def find_stop(folder: Path, chat_template: str, named: Mapping[str, str]) -> str:
    """Return the token with which a chat template ends a response.

    ``named``: the tokenizer's special tokens by name; ``eos_token`` ends responses after which
    the template writes nothing.

    Raises:
        InputError: the template writes a token that the tokenizer does not have, or there is none.
    """
    file = decode_file(folder / TOKENIZER_FILE, read_bytes(folder / TOKENIZER_FILE))
    known = {added.content for added in file.added_tokens}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text = render_messages(chat_template, messages, named, add_generation_prompt=False)
    for token in _CONTROL_SHAPE.findall(text):
        if token not in known:
            raise InputError.at(
                folder,
                None,
                f"the tokenizer has no token {token}, which the chat template writes; set"
                " chat_template to `tokenizer` or to a .jinja file that fits",
            )
    after = text.rpartition(_MARK)[2]
    found = sorted((after.find(token), token) for token in known if token in after)
    stop = found[0][1] if found else named.get("eos_token")
    if not stop or (after.strip() and not found):
        raise InputError.at(
            folder,
            None,
            f"the chat template ends a response with {after.strip()!r}, which is not a token of"
            " the tokenizer; choose another chat_template",
        )
    return stop


def own_chat_template(folder: Path) -> str:
    """Return the chat template that a tokenizer folder carries.

    Raises:
        InputError: it carries none.
    """
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    template = read_tokenizer_config(folder).get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    if not isinstance(template, str):
        raise InputError.at(
            folder, None, "has no chat template; set chat_template to chatml or a .jinja file"
        )
    return template


def save_tokenizer(source: Path, folder: Path, conversation: Conversation) -> None:
    """Copy a tokenizer so that its chat template and end token are those of ``conversation``.

    The template goes into ``tokenizer_config.json``, which every reader knows.
    """
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **read_tokenizer_config(source)}
    config |= {"chat_template": conversation.chat_template, "eos_token": conversation.stop}
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False))
    if (source / _SPECIAL_MAP_FILE).is_file():
        named = json.loads((source / _SPECIAL_MAP_FILE).read_text(encoding="utf-8"))
        named["eos_token"] = conversation.stop
        write_text(folder / _SPECIAL_MAP_FILE, json.dumps(named, indent=2, ensure_ascii=False))
