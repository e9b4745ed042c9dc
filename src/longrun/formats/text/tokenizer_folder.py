"""A Hugging Face tokenizer folder: its config, its chat template, and a copy that carries ours.

It reads and writes files; what the tokens of a text are is in ``exact_tokenizer``.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun.errors import InputError
from longrun.formats.stages.atomic import write_text
from longrun.formats.text.conversation import RESPONSE_MARK, Conversation, render_messages
from longrun.formats.text.exact_tokenizer import TOKENIZER_FILE
from longrun.formats.text.tokenizer_file import decode_file, read_bytes

CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_COPIED = (TOKENIZER_FILE, "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
_SPECIAL_MAP_FILE = "special_tokens_map.json"
_GENERATION_FILE = "generation_config.json"
_TEMPLATE_FOLDERS = ("chat_templates", "additional_chat_templates")
_NEW_CLASS, _PLAIN_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_MODEL_INPUTS = ("input_ids", "attention_mask")
"""What decoders take; the plain class of transformers 4 makes token_type_ids too."""
_ONLY_NEW = frozenset({"backend", "is_local", "local_files_only"})
"""What transformers 5 notes down for itself."""
_CONTROL_SHAPE = re.compile(r"<\|[^<>|\s]+\|>")


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
    return read_object(folder / CONFIG_FILE)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file.

    Raises:
        InputError: it is damaged or no object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError.at(path, None, f"is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError.at(path, None, "is not a JSON object")
    return content


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the named tokens of a tokenizer config: ``{"eos_token": "<|endoftext|>", ...}``."""
    extra = config.get("extra_special_tokens")
    named = {**config, **extra} if isinstance(extra, dict) else config
    found = {}
    for name, value in named.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def named_tokens(folder: Path) -> dict[str, str]:
    """Return the named tokens of a tokenizer folder, from the files where transformers looks.

    Raises:
        InputError: a file is damaged.
    """
    config = read_tokenizer_config(folder)
    named = special_tokens(config)
    if "added_tokens_decoder" not in config:
        named |= special_tokens(read_object(folder / _SPECIAL_MAP_FILE))
    return named


def generation_stop(folder: Path) -> str | None:
    """Return the token at which ``generation_config.json`` stops first; None: it names none.

    Raises:
        InputError: a file is damaged.
    """
    ids = read_object(folder / _GENERATION_FILE).get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    file = decode_file(folder / TOKENIZER_FILE, read_bytes(folder / TOKENIZER_FILE))
    return next((added.content for added in file.added_tokens if added.id == first), None)


def find_stop(folder: Path, chat_template: str, named: Mapping[str, str]) -> str:
    """Return the token with which a chat template ends a response.

    ``named``: the tokenizer's special tokens by name; ``eos_token`` ends responses after which
    the template writes nothing.

    Raises:
        InputError: the template writes a token that the tokenizer does not have, or there is none.
    """
    file = decode_file(folder / TOKENIZER_FILE, read_bytes(folder / TOKENIZER_FILE))
    known = {added.content for added in file.added_tokens}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": RESPONSE_MARK}]
    text = render_messages(chat_template, messages, named, add_generation_prompt=False)
    for token in _CONTROL_SHAPE.findall(text):
        if token not in known:
            raise InputError.at(
                folder,
                None,
                f"the tokenizer has no token {token}, which the chat template writes; set"
                " chat_template to `tokenizer` or to a .jinja file that fits",
            )
    after = text.rpartition(RESPONSE_MARK)[2]
    found = sorted((after.find(token), -len(token), token) for token in known if token in after)
    stop = found[0][2] if found else named.get("eos_token") or generation_stop(folder)
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
    template = find_chat_template(folder)
    if template is None:
        raise InputError.at(
            folder, None, "has no chat template; set chat_template to chatml or a .jinja file"
        )
    return template


def find_chat_template(folder: Path) -> str | None:
    """Return the chat template that a tokenizer folder carries; None: it carries none.

    A file stands before ``tokenizer_config.json``; of several templates it is ``default``.

    Raises:
        InputError: it carries several, and none of them is called ``default``.
    """
    entry = read_tokenizer_config(folder).get("chat_template")
    named: dict[str, str] = {}
    if isinstance(entry, str):
        named["default"] = entry
    elif isinstance(entry, list):
        named = {str(one.get("name")): str(one.get("template")) for one in entry}
    for directory in _TEMPLATE_FOLDERS:
        for path in sorted((folder / directory).glob("*.jinja")):
            named[path.stem] = path.read_text(encoding="utf-8")
    if (folder / TEMPLATE_FILE).is_file():
        named["default"] = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    if named and "default" not in named:
        raise InputError.at(
            folder,
            None,
            f"has the chat templates {', '.join(sorted(named))} and none called default; save the"
            " one you want as a .jinja file and set chat_template to it",
        )
    return named.get("default")


def save_tokenizer(
    source: Path, folder: Path, conversation: Conversation, content: str | None = None
) -> None:
    """Copy a tokenizer so that its chat template and end token are those of ``conversation``.

    The template goes into ``tokenizer_config.json``, which every reader knows. ``content``: what
    ``tokenizer.json`` is to say, where its class would read the file otherwise than others do.
    """
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = readable_config(read_tokenizer_config(source))
    if content is not None:
        write_text(folder / TOKENIZER_FILE, content)
        config["tokenizer_class"] = _PLAIN_CLASS
        config.setdefault("model_input_names", list(_MODEL_INPUTS))
    config |= {"chat_template": conversation.chat_template, "eos_token": conversation.stop}
    for name, token in named_tokens(source).items():
        config.setdefault(name, token)
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False))
    named = read_object(source / _SPECIAL_MAP_FILE)
    if named:
        named["eos_token"] = conversation.stop
        write_text(folder / _SPECIAL_MAP_FILE, json.dumps(named, indent=2, ensure_ascii=False))


def readable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer config in the words that transformers 4 and 5 both understand.

    transformers 5 has a class that 4 does not know, and a list of more special tokens under a name
    for which 4 expects a mapping.
    """
    kept = {key: value for key, value in config.items() if key not in _ONLY_NEW}
    readable: dict[str, Any] = {"tokenizer_class": _PLAIN_CLASS, **kept}
    if config.get("tokenizer_class", _NEW_CLASS) == _NEW_CLASS:
        readable["tokenizer_class"] = _PLAIN_CLASS
        readable.setdefault("model_input_names", list(_MODEL_INPUTS))
    extra = readable.get("extra_special_tokens")
    if isinstance(extra, list):
        del readable["extra_special_tokens"]
        more = readable.get("additional_special_tokens") or []
        known = {_content_of(one) for one in more}
        readable["additional_special_tokens"] = [
            *more,
            *(one for one in extra if _content_of(one) not in known),
        ]
    return readable


def _content_of(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token
