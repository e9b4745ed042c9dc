"""The user's tokenizer, exactly: what is a control token, and what only looks like one.

A *control token* steers a conversation (``<|im_end|>``). Only the chat template may write one: the
same characters inside a record are ordinary text and get the tokens of ordinary text. Tags of
reasoning and code (``<think>``, ``<tool_call>``) are not control tokens; records are full of them.

This is the slow, exact path on top of ``tokenizers``. Mass encoding lives in
``longrun.data.encode`` and is checked against this module.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from longrun.errors import InputError
from longrun.formats.atomic import write_text
from longrun.formats.code_style import CodeStyle
from longrun.formats.conversation import Conversation, render_messages
from longrun.formats.spans import THINK_BEGIN, THINK_END

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_COPIED = (TOKENIZER_FILE, "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
_SPECIAL_MAP_FILE = "special_tokens_map.json"
_TAGS = frozenset(
    {THINK_BEGIN, THINK_END}
    | {
        tag.strip()
        for style in (CodeStyle.named("tool_call"), CodeStyle.named("fenced"))
        for tag in (style.begin, style.end)
    }
)
_HIDING = "\ufdd0"
"""A noncharacter put inside look-alikes while a template is rendered."""


_CONTROL_SHAPE = re.compile(r"<\|[^<>|\s]+\|>")


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_Added] = []
    decoder: Any = None


@dataclass(frozen=True)
class ExactTokenizer:
    """A Hugging Face tokenizer folder, read with ``tokenizers`` alone."""

    folder: Path
    stop: str
    """The token that ends a response; always a control token."""

    def __post_init__(self) -> None:
        """Check that the tokenizer is there and knows the stop token."""
        if self.stop not in {added.content for added in self._file.added_tokens}:
            raise InputError.at(
                self.path,
                None,
                f"has no token {self.stop!r}, with which the chat template ends a response;"
                " choose another chat_template or add the token",
            )

    def __reduce__(self) -> tuple[type["ExactTokenizer"], tuple[Path, str]]:
        """Send the name, not what was loaded, to another process."""
        return type(self), (self.folder, self.stop)

    @property
    def path(self) -> Path:
        """The file that is the tokenizer."""
        return self.folder / TOKENIZER_FILE

    @cached_property
    def control(self) -> frozenset[str]:
        """Every control token's text."""
        special = {added.content for added in self._file.added_tokens if added.special}
        return frozenset((special - _TAGS) | {self.stop})

    @cached_property
    def stop_id(self) -> int:
        """The id of the stop token."""
        return next(added.id for added in self._file.added_tokens if added.content == self.stop)

    def holds_control(self, text: str) -> bool:
        """Say whether a control token's text occurs in ``text``."""
        return self._prefix in text and self._pattern.search(text) is not None

    def hide(self, text: str) -> str:
        """Break every look-alike in ``text``, so that a template's own tokens can be told apart."""
        if not self.holds_control(text):
            return text
        return self._pattern.sub(lambda match: _hidden(match[0]), text)

    def is_hidden(self, text: str) -> bool:
        """Say whether ``hide`` had anything to do in ``text``."""
        return _HIDING in text

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts in which every control token is meant as one."""
        return [list(one.ids) for one in self._whole.encode_batch_fast(texts, False)]

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of a record's text; look-alikes of control tokens stay text."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> Encoding:
        """Encode as ``encode_text`` does; the result also knows each token's characters."""
        return self._text.encode(text, add_special_tokens=False)

    def encode_rendered(self, hidden: str) -> list[int]:
        """Return the tokens of a rendered prompt whose look-alikes are hidden by ``hide``.

        Without look-alikes these are the tokens of the whole string.
        """
        ids = {added.content: added.id for added in self._file.added_tokens}
        tokens: list[int] = []
        for part in self._pattern.split(hidden):
            if part in self.control:
                tokens.append(ids[part])
            elif part:
                tokens += self.encode_text(self._shown(part))
        return tokens

    def encode_prompt(
        self, conversation: Conversation, mode: str, record: Mapping[str, Any]
    ) -> list[int]:
        """Return the tokens of the prompt of ``record``: what training saw, token for token.

        Raises:
            InputError: as ``Conversation.render``.
        """
        return self.encode_rendered(conversation.render(mode, record, guard=self.hide))

    def byte_lengths(self) -> npt.NDArray[np.int32] | None:
        """Return [vocabulary] bytes of text that each token stands for; None: not byte-level."""
        decoder = self._file.decoder or {}
        parts = decoder.get("decoders", [decoder])
        if [part.get("type") for part in parts] != ["ByteLevel"]:
            return None
        vocabulary = self._whole.get_vocab(with_added_tokens=True)
        lengths = np.zeros(max(vocabulary.values()) + 1, np.int32)
        for token, index in vocabulary.items():
            lengths[index] = len(token)
        for added in self._file.added_tokens:
            lengths[added.id] = len(added.content.encode())
        return lengths

    @cached_property
    def content(self) -> bytes:
        """The bytes of ``tokenizer.json``."""
        return _read(self.path)

    @cached_property
    def _file(self) -> _TokenizerFile:
        return _decode_file(self.path, self.content)

    @cached_property
    def _text(self) -> Tokenizer:
        """The tokenizer under which control tokens are text and tags are tokens."""
        tokenizer = self._load()
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def _whole(self) -> Tokenizer:
        """The tokenizer under which control tokens are tokens, as everybody else loads it."""
        return self._load()

    def _load(self) -> Tokenizer:
        content = msgspec.json.decode(self.content)
        for added in content.get("added_tokens", []):
            added["special"] = added["content"] in self.control
        content |= {"truncation": None, "padding": None}
        try:
            return Tokenizer.from_str(msgspec.json.encode(content).decode())
        except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
            raise InputError.at(self.path, None, f"is not a tokenizer ({error})") from None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.control, key=lambda token: (-len(token), token))
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    @cached_property
    def _prefix(self) -> str:
        first, last = min(self.control), max(self.control)
        same = 0
        while same < min(len(first), len(last)) and first[same] == last[same]:
            same += 1
        return first[:same]

    def _shown(self, text: str) -> str:
        if _HIDING not in text:
            return text
        for token in self.control:
            text = text.replace(_hidden(token), token)
        return text


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
    file = _decode_file(folder / TOKENIZER_FILE, _read(folder / TOKENIZER_FILE))
    known = {added.content for added in file.added_tokens}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _HIDING}]
    text = render_messages(chat_template, messages, named, add_generation_prompt=False)
    for token in _CONTROL_SHAPE.findall(text):
        if token not in known:
            raise InputError.at(
                folder,
                None,
                f"the tokenizer has no token {token}, which the chat template writes; set"
                " chat_template to `tokenizer` or to a .jinja file that fits",
            )
    after = text.rpartition(_HIDING)[2]
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error.strerror})") from None


def _decode_file(path: Path, content: bytes) -> _TokenizerFile:
    try:
        return msgspec.json.decode(content, type=_TokenizerFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError.at(path, None, f"is damaged ({error}); fetch it again") from None


def _hidden(token: str) -> str:
    return token[:1] + _HIDING + token[1:]
