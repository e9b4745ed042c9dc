r"""What ``tokenizer.json`` says of itself: added tokens, and what happens at the edges of a text.

Some tokenizers put a space in front of a text. Inside a longer text they do so only after a token
of its own, or not at all; so a text that goes on needs the same file without that rule, which
``continued`` makes::

    "<s>Sum: " + "6"    ->    <s> _Sum : _ 6         in one string
                              <s> _Sum : _ | 6       by ``continued``
                              <s> _Sum : _ | _ 6     by the file as it is
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from tokenizers.pre_tokenizers import ByteLevel

from longrun.errors import InputError
from longrun.formats.json_text import JsonError, decode_json

SPACE_MARK = "\u2581"
"""Stands for a space in the tokens of SentencePiece vocabularies."""
PrefixRule = Literal["none", "first", "each"]
"""When a space is put in front: never, where the whole text begins, or also after added tokens."""


class AddedToken(msgspec.Struct):
    """A token with a text of its own, outside the merges."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    """It is looked for in the normalized text, not in the text as it is."""


class TokenizerFile(msgspec.Struct):
    """The parts of ``tokenizer.json`` that are read here."""

    added_tokens: list[AddedToken] = []
    normalizer: Any = None
    pre_tokenizer: Any = None
    decoder: Any = None

    @property
    def prefix_rule(self) -> PrefixRule:
        """When a space is put in front of a text."""
        rules = {_rule(part) for part in _parts(self.normalizer, self.pre_tokenizer)}
        return "each" if "each" in rules else "first" if "first" in rules else "none"

    @property
    def keeps_ascii(self) -> bool:
        """Whether tokens of ASCII text stand for that text, byte for byte, whatever is before it.

        Unicode's composed form changes no ASCII character and composes nothing across one. A
        space in front of the whole stands where nobody counts; one after each added token does not.
        """
        strips = any(added.lstrip or added.rstrip for added in self.added_tokens)
        return (
            not strips
            and self.prefix_rule != "each"
            and all(map(_keeps_ascii, _parts(self.normalizer, self.pre_tokenizer)))
        )

    @property
    def spelling(self) -> Literal["bytes", "marks"] | None:
        """How a token spells its text: one character a byte, or with marks for spaces."""
        parts = [part.get("type") for part in _parts(self.decoder)]
        if parts == ["ByteLevel"]:
            return "bytes"
        return "marks" if parts[:3] == ["Replace", "ByteFallback", "Fuse"] else None


def read_bytes(path: Path) -> bytes:
    """Read a file; raises ``InputError`` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error.strerror})") from None


def decode_file(path: Path, content: bytes) -> TokenizerFile:
    """Decode ``tokenizer.json``; raises ``InputError`` naming ``path`` where it is damaged."""
    try:
        return decode_json(content, TokenizerFile)
    except JsonError as error:
        raise InputError.at(path, None, f"is damaged: it {error}; fetch it again") from None


def continued(content: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of ``tokenizer.json`` without the rule that puts a space in front."""
    changed: dict[str, Any] = json.loads(json.dumps(content))
    normalizer = changed.get("normalizer") or {}
    if normalizer.get("type") == "Prepend":
        changed["normalizer"] = None
    elif "normalizers" in normalizer:
        kept = [part for part in normalizer["normalizers"] if part["type"] != "Prepend"]
        normalizer["normalizers"] = kept
    for part in _parts(changed.get("pre_tokenizer")):
        if _rule(part) != "none":
            part["add_prefix_space"] = False
            if part["type"] == "Metaspace":
                part["prepend_scheme"] = "never"
    return changed


def decode_vocabulary(content: bytes) -> dict[str, int]:
    """Return the tokens of ``tokenizer.json`` that are no added ones; none if it is no BPE."""
    try:
        return msgspec.json.decode(content, type=_Vocabulary).model.vocab
    except msgspec.ValidationError:
        return {}


def missing_bytes(vocabulary: Mapping[str, int]) -> list[str]:
    """Return the bytes, as a byte-level vocabulary spells them, for which it has no token."""
    return [byte for byte in sorted(ByteLevel.alphabet()) if byte not in vocabulary]


class _Model(msgspec.Struct):
    vocab: dict[str, int] = {}


class _Vocabulary(msgspec.Struct):
    model: _Model


def _parts(*components: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of normalizers, pre-tokenizers or decoders, sequences resolved."""
    for component in components:
        if component is None:
            continue
        inner = [component.get(key) for key in ("normalizers", "pretokenizers", "decoders")]
        if component.get("type") == "Sequence":
            yield from _parts(*(part for parts in inner for part in parts or []))
        else:
            yield component


def _rule(part: dict[str, Any]) -> PrefixRule:
    match part:
        case {"type": "Prepend"} | {"type": "ByteLevel", "add_prefix_space": True}:
            return "each"
        case {"type": "Metaspace", "prepend_scheme": str(scheme)}:
            return {"always": "each", "first": "first"}.get(scheme, "none")  # type: ignore[return-value]  # one of three literals
        case {"type": "Metaspace"}:
            return "each" if part.get("add_prefix_space", True) else "none"
    return "none"


def _keeps_ascii(part: dict[str, Any]) -> bool:
    """Say whether a step is known to add, drop and change no ASCII but spaces to their mark."""
    match part:
        case {"type": "NFC" | "Digits" | "Prepend"}:
            return True
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return True
        case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
            return True
        case {"type": "Metaspace", "replacement": "\u2581"}:
            return True
        case {"type": "Split", "behavior": str(behavior)} if behavior != "Removed":
            return True
    return False
