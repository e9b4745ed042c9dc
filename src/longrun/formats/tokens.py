"""The user's tokenizer, exactly: what is a control token, and what only looks like one.

A *control token* steers a conversation (``<|im_end|>``). Only the chat template may write one: the
same characters inside a record are ordinary text and get the tokens of ordinary text. Tags of
reasoning and code (``<think>``, ``<tool_call>``) are not control tokens; records are full of them.

This is the slow, exact path on top of ``tokenizers``. Mass encoding lives in
``longrun.data.encode`` and is checked against this module.
"""

import re
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
from longrun.formats.code_style import CodeStyle
from longrun.formats.conversation import Conversation
from longrun.formats.processes import release_memory
from longrun.formats.spans import THINK_BEGIN, THINK_END

TOKENIZER_FILE = "tokenizer.json"
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


class AddedToken(msgspec.Struct):
    """A token with a text of its own, outside the merges."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False


class TokenizerFile(msgspec.Struct):
    """The parts of ``tokenizer.json`` that are read here."""

    added_tokens: list[AddedToken] = []
    normalizer: Any = None
    pre_tokenizer: Any = None
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

    @cached_property
    def control_ids(self) -> npt.NDArray[np.int32]:
        """The ids of all control tokens, rising."""
        ids = {added.id for added in self._file.added_tokens if added.content in self.control}
        return np.array(sorted(ids), np.int32)

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

    def byte_lengths(self) -> npt.NDArray[np.uint8 | np.int32] | None:
        """Return [vocabulary] bytes of text that each token stands for; None: not byte-level.

        The type is as small as they allow: every token of the data is looked up here.
        """
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
        return lengths.astype(np.uint8) if lengths.max() < 256 else lengths

    @cached_property
    def keeps_ascii(self) -> bool:
        """Whether tokens of ASCII text stand for that text, byte for byte, whatever is before it.

        Unicode's composed form changes no ASCII character and composes nothing across one.
        """
        strips = any(added.lstrip or added.rstrip for added in self._file.added_tokens)
        return not strips and _keeps_ascii(self._file.normalizer, self._file.pre_tokenizer)

    def forget(self) -> None:
        """Free what was loaded to encode (about 80 MB); it is loaded again when it is needed."""
        for name in ("_whole", "_text"):
            self.__dict__.pop(name, None)
        release_memory()

    @cached_property
    def content(self) -> bytes:
        """The bytes of ``tokenizer.json``."""
        return read_bytes(self.path)

    @cached_property
    def _file(self) -> TokenizerFile:
        return decode_file(self.path, self.content)

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


def read_bytes(path: Path) -> bytes:
    """Read a file; raises ``InputError`` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error.strerror})") from None


def decode_file(path: Path, content: bytes) -> TokenizerFile:
    """Decode ``tokenizer.json``; raises ``InputError`` naming ``path`` where it is damaged."""
    try:
        return msgspec.json.decode(content, type=TokenizerFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError.at(path, None, f"is damaged ({error}); fetch it again") from None


def _keeps_ascii(*components: Any) -> bool:
    """Say whether normalizers and pre-tokenizers are known to add, drop and change no ASCII."""
    for component in components:
        match component:
            case (
                None | {"type": "NFC" | "Digits"} | {"type": "ByteLevel", "add_prefix_space": False}
            ):
                pass
            case {"type": "Split", "behavior": str(behavior)} if behavior != "Removed":
                pass
            case {"type": "Sequence"}:
                parts = component.get("normalizers", []) + component.get("pretokenizers", [])
                if not _keeps_ascii(*parts):
                    return False
            case _:
                return False
    return True


def _hidden(token: str) -> str:
    return token[:1] + _HIDING + token[1:]
