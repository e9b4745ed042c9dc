r"""From drafts to tokens and typed spans, a batch at a time.

Which strings are tokenized as one decides the tokens, so it follows generation: the prompt is one
string, every run of the response is one string (see ``compose``), the stop token stands alone. A
sampled model sees exactly these borders: the prompt is encoded before the first token is drawn,
and an output is encoded when it is appended. Inside a run nothing is cut: ``</think>`` or a tag
may share a token with its neighbour.

Span borders inside a run are found afterwards, from the bytes that each token stands for; a token
that lies across a border belongs to the earlier span::

    text     t o o l \n \n S o        border of the pieces after byte 5
    tokens   tool | \n\n | So
    starts   0      4       6          tokens that start before 5: two
    spans    [tool, \n\n] [So]

Two engines give the same tokens: gigatoken, about a hundred times faster, is used when it equals
``tokenizers`` on a sample of the user's own records, and ``tokenizers`` otherwise.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import numpy.typing as npt

from longrun.data.compose import Draft
from longrun.formats.spans import Piece, SpanKind
from longrun.formats.tokens import ExactTokenizer

_MOST_RESIDENT_BYTES = 1 << 30
"""Memory of a worker above which the fast engine, whose cache has no bound, is built anew."""
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
log = logging.getLogger(__name__)

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Tokens of D documents in S spans, side by side. T tokens."""

    tokens: Int32s
    """[T]."""
    span_lengths: Int32s
    """[S]."""
    span_kinds: npt.NDArray[np.int8]
    """[S]."""
    first_spans: Int64s
    """[D + 1]."""
    first_tokens: Int64s
    """[D + 1]."""
    prompt_tokens: Int64s
    """[D]."""

    def response_tokens(self) -> Int64s:
        """Return [D] tokens of each response, the stop token not counted."""
        return np.diff(self.first_tokens) - self.prompt_tokens - 1


@dataclass(slots=True)
class _Texts:
    """Strings to tokenize and the pieces that they consist of."""

    texts: list[str] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    """Texts (by position) that need the exact path because of look-alikes."""
    kinds: list[int] = field(default_factory=list)
    """Of every piece, over all texts."""
    owners: list[int] = field(default_factory=list)
    """Of every piece: its text."""
    offsets: list[int] = field(default_factory=list)
    """Of every piece: its first byte in its text; 0: it begins the text."""
    first_pieces: list[int] = field(default_factory=lambda: [0])
    first_texts: list[int] = field(default_factory=lambda: [0])
    """Of every document, and one more."""

    def add(self, pieces: Iterable[Piece]) -> None:
        """Add one text; its pieces joined are the text."""
        position, parts = 0, []
        for kind, piece in pieces:
            self.kinds.append(int(kind))
            self.owners.append(len(self.texts))
            self.offsets.append(position)
            parts.append(piece)
            position += len(piece) if piece.isascii() else len(piece.encode())
        self.texts.append(parts[0] if len(parts) == 1 else "".join(parts))

    def end_document(self) -> None:
        """Close the document to which the last texts belong."""
        self.first_pieces.append(len(self.kinds))
        self.first_texts.append(len(self.texts))


@dataclass(frozen=True)
class Encoder:
    """Turns drafts into tokens; one per worker process."""

    tokenizer: ExactTokenizer
    fast: bool
    """Whether gigatoken may be used: it was checked on a sample."""
    byte_lengths: Int32s | None
    """[vocabulary] bytes of each token; None: borders are found by ``tokenizers``, slowly."""

    def encode(self, drafts: Sequence[Draft]) -> EncodedBatch:
        """Tokenize ``drafts``; see the module docstring."""
        texts = self._lay_out(drafts)
        tokens, bounds = self._encode_texts(texts)
        starts = self._span_starts(texts, tokens, bounds)
        lengths = np.diff(np.append(starts, bounds[-1]))
        kinds = np.array(texts.kinds, np.int8)
        first_spans = np.array(texts.first_pieces, np.int64)
        if not lengths.all():
            # A piece whose every token began in the piece before it has none of its own.
            present = lengths > 0
            first_spans = np.append(0, np.cumsum(present))[first_spans]
            lengths, kinds = lengths[present], kinds[present]
        first_texts = np.array(texts.first_texts)
        return EncodedBatch(
            tokens=tokens,
            span_lengths=lengths.astype(np.int32),
            span_kinds=kinds,
            first_spans=first_spans,
            first_tokens=bounds[first_texts],
            prompt_tokens=np.diff(bounds)[first_texts[:-1]],
        )

    def renew(self) -> None:
        """Build the fast engine anew when its cache has grown too large."""
        if self.fast and resident_bytes() > _MOST_RESIDENT_BYTES:
            load_fast.cache_clear()

    def _lay_out(self, drafts: Sequence[Draft]) -> _Texts:
        texts = _Texts()
        holds_control = self.tokenizer.holds_control
        for draft in drafts:
            if self.tokenizer.is_hidden(draft.prompt):
                texts.hidden.append(len(texts.texts))
            texts.add([(SpanKind.PROMPT, draft.prompt)])
            for run in draft.runs:
                texts.add(run)
                if holds_control(texts.texts[-1]):
                    texts.hidden.append(len(texts.texts) - 1)
            texts.add([(SpanKind.STOP, self.tokenizer.stop)])
            texts.end_document()
        return texts

    def _encode_texts(self, texts: _Texts) -> tuple[Int32s, Int64s]:
        """Return the tokens of all texts and [texts + 1] bounds between them."""
        if not texts.hidden:
            return self._encode_plain(texts.texts)
        hidden = set(texts.hidden)
        plain = ["" if at in hidden else text for at, text in enumerate(texts.texts)]
        tokens, bounds = self._encode_plain(plain)
        parts, last = [], 0
        counts = np.diff(bounds)
        for position in texts.hidden:
            exact = self._encode_exactly(texts, position)
            parts += [tokens[last : bounds[position]], np.array(exact, np.int32)]
            last = int(bounds[position])
            counts[position] = len(exact)
        parts.append(tokens[last:])
        return np.concatenate(parts), np.append(0, np.cumsum(counts))

    def _encode_exactly(self, texts: _Texts, position: int) -> list[int]:
        text = texts.texts[position]
        if position in texts.first_texts:
            return self.tokenizer.encode_rendered(text)
        return self.tokenizer.encode_text(text)

    def _encode_plain(self, texts: list[str]) -> tuple[Int32s, Int64s]:
        if self.fast:
            return encode_fast(load_fast(self.tokenizer), texts)
        encoded = [np.array(ids, np.int32) for ids in self.tokenizer.encode_whole(texts)]
        return np.concatenate(encoded), np.append(0, np.cumsum([len(ids) for ids in encoded]))

    def _span_starts(self, texts: _Texts, tokens: Int32s, bounds: Int64s) -> Int64s:
        """Return [pieces] the first token of each piece, over all texts."""
        owners = np.array(texts.owners, np.int64)
        offsets = np.array(texts.offsets, np.int64)
        starts = bounds[owners]
        inner = np.flatnonzero(offsets)
        if not len(inner):
            return starts
        if self.byte_lengths is None:
            unsure = np.unique(owners[inner])
        else:
            ends = np.append(0, np.cumsum(self.byte_lengths[tokens], dtype=np.int64))
            wanted = ends[bounds[owners[inner]]] + offsets[inner]
            starts[inner] = np.searchsorted(ends[:-1], wanted, side="left")
            several = np.unique(owners[inner])
            spelled = ends[bounds[several + 1]] - ends[bounds[several]]
            sizes = [len(texts.texts[text].encode()) for text in several]
            # Normalization changed the text: only the tokenizer knows where its characters went.
            unsure = several[spelled != sizes]
        for text in unsure:
            mine = np.flatnonzero(owners == text)
            starts[mine] = bounds[text] + self._exact_starts(texts.texts[text], offsets[mine])
        return starts

    def _exact_starts(self, text: str, offsets: Int64s) -> Int64s:
        """Return the number of tokens of ``text`` that start before each of ``offsets`` (bytes)."""
        raw = text.encode()
        wanted = [len(raw[:offset].decode()) for offset in offsets.tolist()]
        encoded = self.tokenizer.encode_with_offsets(text)
        return np.searchsorted([begin for begin, _ in encoded.offsets], wanted, side="left")


@lru_cache(maxsize=1)
def load_fast(tokenizer: ExactTokenizer) -> Any:
    """Load the tokenizer into gigatoken.

    Raises:
        RuntimeError: gigatoken does not know a tokenizer of this kind.
    """
    return gigatoken.Tokenizer.from_json(tokenizer.content)


def encode_fast(engine: Any, texts: Sequence[str]) -> tuple[Int32s, Int64s]:
    """Return the tokens of all texts and [texts + 1] bounds between them."""
    layout = engine.encode_batch(list(texts), parallel=False).layout
    bounds = np.asarray(layout.offsets.data, np.int64)
    tokens = np.asarray(layout.content.data).view(np.int32)
    return tokens[bounds[0] : bounds[-1]], bounds - bounds[0]


def choose_engine(tokenizer: ExactTokenizer, drafts: Sequence[Draft]) -> bool:
    """Decide whether gigatoken may be used: it must equal ``tokenizers`` on ``drafts``."""
    try:
        engine = load_fast(tokenizer)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        log.info("tokens by tokenizers: gigatoken cannot load this tokenizer (%s)", reason)
        return False
    texts = [text for draft in drafts for text in _texts_of(draft)]
    num_tokens = 0
    for text, expected in zip(texts, tokenizer.encode_whole(texts), strict=True):
        if engine.encode(text).tolist() != expected:
            log.warning("tokens by tokenizers, slowly: gigatoken differs from it on %r", text[:80])
            return False
        num_tokens += len(expected)
    log.info(
        "tokens by gigatoken: equal to tokenizers on %d sampled texts (%d tokens)",
        len(texts),
        num_tokens,
    )
    return True


def resident_bytes() -> int:
    """Return the memory this process holds now; 0 where the system does not tell."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES


def _texts_of(draft: Draft) -> list[str]:
    return [draft.prompt, *("".join(piece for _, piece in run) for run in draft.runs)]
