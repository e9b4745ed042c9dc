"""The user's tokenizer, exactly: what is a control token, and what only looks like one.

A *control token* steers a conversation (``<|im_end|>``). Only the chat template may write one: the
same characters inside a record are ordinary text and get the tokens of ordinary text. Tags of
reasoning and code (``<think>``, ``<tool_call>``) are not control tokens; records are full of them.

This is the slow, exact path on top of ``tokenizers``. Mass encoding lives in
``longrun.data.documents.encode`` and is checked against this module.
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
from tokenizers import Tokenizer

from longrun.errors import InputError
from longrun.formats.processes import release_memory
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.spans import THINK_BEGIN, THINK_END
from longrun.formats.text.tokenizer_file import (
    SPACE_MARK,
    TokenizerFile,
    continued,
    decode_file,
    decode_vocabulary,
    missing_bytes,
    read_bytes,
)

TOKENIZER_FILE = "tokenizer.json"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
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
        return self.find_control(text) is not None

    def find_control(self, text: str) -> str | None:
        """Return the first control token whose text occurs in ``text``; None: there is none."""
        found = self._pattern.search(text) if self._prefix in text else None
        return found[0] if found else None

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
        whole = self._whole.encode_batch_fast(texts, add_special_tokens=False)
        return [list(one.ids) for one in whole]

    def encode_text(self, text: str, *, after: str = "") -> list[int]:
        """Return the tokens of a record's text; look-alikes of control tokens stay text.

        ``after``: the text in front of it, or its end.
        """
        return self.encode_with_begins(text, continues=self.continues(after))[0]

    def encode_with_begins(
        self, text: str, *, continues: bool = False
    ) -> tuple[list[int], list[int]]:
        """Return what ``encode_text`` does, and for each token the place of its first character."""
        if not continues:
            encoded = self._text.encode(text, add_special_tokens=False)
            return list(encoded.ids), [begin for begin, _ in encoded.offsets]
        head = self.cut_continuing(text.encode())[0].decode()
        encoded = self._text_continued.encode(head, add_special_tokens=False)
        ids, begins = list(encoded.ids), [begin for begin, _ in encoded.offsets]
        if len(head) < len(text):
            more_ids, more_begins = self.encode_with_begins(text[len(head) :])
            ids, begins = ids + more_ids, begins + [begin + len(head) for begin in more_begins]
        return ids, begins

    def cut_continuing(self, text: bytes) -> tuple[bytes, bytes]:
        """Cut a text that goes on before its first added token: after that, rules are as ever."""
        if self._file.prefix_rule == "first":
            return text, b""
        found = self._added_pattern.search(text)
        at = found.start() if found else len(text)
        return text[:at], text[at:]

    def continues(self, after: str) -> bool:
        """Say whether a text after this one gets no space in front that it would get alone."""
        rule = self._file.prefix_rule
        if rule == "none" or not after:
            return False
        return rule == "first" or not after.endswith(self._added)

    def encode_rendered(self, hidden: str) -> list[int]:
        """Return the tokens of a rendered prompt whose look-alikes are hidden by ``hide``.

        Without look-alikes these are the tokens of the whole string.
        """
        if not self.is_hidden(hidden):
            return self.encode_whole([hidden])[0]
        flags = {added.content: added for added in self._file.added_tokens}
        tokens: list[int] = []
        parts = self._pattern.split(hidden)
        for position, part in enumerate(parts):
            if part in self.control:
                tokens.append(flags[part].id)
                continue
            before = parts[position - 1] if position else ""
            if before and flags[before].rstrip:
                part = part.lstrip()  # noqa: PLW2901  (the token takes the white space)
            if position + 1 < len(parts) and flags[parts[position + 1]].lstrip:
                part = part.rstrip()  # noqa: PLW2901
            if part:
                tokens += self.encode_text(self.show(part), after=before)
        return tokens

    def encode_prompt(
        self, conversation: Conversation, mode: str, record: Mapping[str, Any]
    ) -> list[int]:
        """Return the tokens of the prompt of ``record``: what training saw, token for token.

        Raises:
            InputError: as ``Conversation.render``.
        """
        return self.encode_rendered(conversation.render(mode, record, guard=self.hide))

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of ``ids`` by name, for messages."""
        return [self._whole.id_to_token(one) or str(one) for one in ids]

    def byte_lengths(self) -> npt.NDArray[np.uint8 | np.int32] | None:
        """Return [vocabulary] bytes of text that each token stands for; None: nobody knows.

        The type is as small as they allow: every token of the data is looked up here.
        """
        spelling = self._file.spelling
        if spelling is None:
            return None
        vocabulary = self._whole.get_vocab(with_added_tokens=True)
        lengths = np.zeros(max(vocabulary.values()) + 1, np.int32)
        for token, index in vocabulary.items():
            if spelling == "bytes":
                lengths[index] = len(token)
            elif _BYTE.fullmatch(token):
                lengths[index] = 1
            else:
                lengths[index] = len(token.replace(SPACE_MARK, " ").encode())
        for added in self._file.added_tokens:
            lengths[added.id] = len(added.content.encode())
        return lengths.astype(np.uint8) if lengths.max() < 256 else lengths

    @cached_property
    def keeps_ascii(self) -> bool:
        """See ``TokenizerFile.keeps_ascii``."""
        return self._file.keeps_ascii

    @property
    def puts_space_in_front(self) -> bool:
        """Whether a text that stands alone gets a space in front."""
        return self._file.prefix_rule != "none"

    def forget(self) -> None:
        """Free what was loaded to encode (about 80 MB); it is loaded again when it is needed."""
        for name in ("_whole", "_text", "_text_continued"):
            self.__dict__.pop(name, None)
        release_memory()

    @cached_property
    def content(self) -> bytes:
        """The bytes of ``tokenizer.json``."""
        return read_bytes(self.path)

    def fast_content(self, *, continues: bool = False) -> bytes:
        """Return ``tokenizer.json`` in a form that fast encoders load.

        They want a token for each of the 256 bytes. Where the vocabulary lacks some, stand-ins
        are added at its end; a text in which one occurs must be encoded by other means.
        """
        if not continues and self.fast_stand_ins is None:
            return self.content
        content = msgspec.json.decode(self.content)
        if continues:
            content = continued(content)
        if self.fast_stand_ins is not None:
            vocabulary = content["model"]["vocab"]
            for number, byte in enumerate(missing_bytes(vocabulary)):
                vocabulary[byte] = self.fast_stand_ins + number
        return msgspec.json.encode(content)

    @cached_property
    def fast_stand_ins(self) -> int | None:
        """The id from which on ``fast_content`` has stand-ins for bytes; None: it needs none."""
        if self._file.spelling != "bytes":
            return None
        vocabulary = decode_vocabulary(self.content)
        if not missing_bytes(vocabulary):
            return None
        return max(*vocabulary.values(), *(one.id for one in self._file.added_tokens)) + 1

    @cached_property
    def _file(self) -> TokenizerFile:
        return decode_file(self.path, self.content)

    @cached_property
    def _added(self) -> tuple[str, ...]:
        """The added tokens at which a text is cut before rules for its beginning apply."""
        return tuple(one.content for one in self._file.added_tokens if not one.normalized)

    @cached_property
    def _added_pattern(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join(re.escape(content.encode()) for content in self._added))

    @cached_property
    def _text(self) -> Tokenizer:
        """The tokenizer under which control tokens are text and tags are tokens."""
        return self._load(control_is_text=True)

    @cached_property
    def _whole(self) -> Tokenizer:
        """The tokenizer under which control tokens are tokens, as everybody else loads it."""
        return self._load()

    @cached_property
    def _text_continued(self) -> Tokenizer:
        return self._load(control_is_text=True, continues=True)

    def _load(self, *, control_is_text: bool = False, continues: bool = False) -> Tokenizer:
        content = msgspec.json.decode(self.content)
        for added in content.get("added_tokens", []):
            added["special"] = added["content"] in self.control
        content |= {"truncation": None, "padding": None}
        try:
            if continues:
                content = continued(content)
            tokenizer = Tokenizer.from_str(msgspec.json.encode(content).decode())
        except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
            raise InputError.at(self.path, None, f"is not a tokenizer ({error})") from None
        tokenizer.encode_special_tokens = control_is_text
        return tokenizer

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

    def show(self, text: str) -> str:
        """Undo ``hide``."""
        if _HIDING not in text:
            return text
        for token in self.control:
            text = text.replace(_hidden(token), token)
        return text


def _hidden(token: str) -> str:
    return token[:1] + _HIDING + token[1:]
