r"""From drafts to tokens and typed spans, a batch at a time.

Which strings are tokenized as one decides the tokens, so it follows generation: the prompt is one
string, every run of the response is one string (see ``compose``), the stop token stands alone. A
sampled model sees exactly these borders: the prompt is encoded before the first token is drawn,
and an output is encoded when it is appended. Inside a run nothing is cut: ``</think>`` or a tag
may share a token with its neighbour.

Span borders inside a run are found afterwards, from the bytes that each token stands for; a token
that lies across a border belongs to the earlier span. Where the text after the first border is
ASCII only its tokens are looked at, counted from the end; else all are, and their bytes must be
those of the text::

    text     t o o l \n \n S o        border of the pieces after byte 5
    tokens   tool | \n\n | So
    starts   0      4       6          tokens that start before 5: two
    spans    [tool, \n\n] [So]

Which engine makes the tokens is in ``longrun.data.documents.engines``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from longrun.data.documents.compose import Draft, Run
from longrun.data.documents.engines import (
    continuing_runs,
    encode_fast,
    encode_fast_continuing,
    load_fast,
)
from longrun.formats.processes import release_memory, resident_bytes
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.spans import SpanKind

_WORTH_BYTES = 20_000_000
"""Growth of the fast engine's cache below which building the engine anew would free too little:
it takes as long as encoding 100 MB of common text."""

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


_GROWTH_BYTES = 60_000_000
"""A batch of text never seen before makes a worker grow by less."""


@dataclass(slots=True)
class _Texts:
    """Strings to tokenize and the pieces that they consist of."""

    texts: list[bytes] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    """Prompts (by position in ``texts``) with look-alikes of control tokens."""
    continuing: list[int] = field(default_factory=list)
    """Runs (by position in ``texts``) that get no space in front, because they go on."""
    kinds: list[int] = field(default_factory=list)
    """Of every piece, over all texts."""
    owners: list[int] = field(default_factory=list)
    """Of every piece: its text."""
    offsets: list[int] = field(default_factory=list)
    """Of every piece: its first byte in its text; 0: it begins the text."""
    tails: list[int] = field(default_factory=list)
    """Of every text of several pieces: bytes after the first, if they are ASCII; otherwise 0."""
    first_pieces: list[int] = field(default_factory=lambda: [0])
    first_texts: list[int] = field(default_factory=lambda: [0])
    """Of every document, and one more."""

    def add(self, run: Run) -> None:
        """Add the text of a run."""
        self.kinds += run.kinds
        self.owners += [len(self.texts)] * len(run.kinds)
        self.offsets += run.offsets
        self.texts.append(run.text)
        if len(run.offsets) > 1:
            tail = run.text[run.offsets[1] :]
            self.tails.append(len(tail) if tail.isascii() else 0)

    def add_whole(self, kind: int, text: bytes) -> None:
        """Add a text of one piece."""
        self.kinds.append(kind)
        self.owners.append(len(self.texts))
        self.offsets.append(0)
        self.texts.append(text)

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
    byte_lengths: npt.NDArray[np.uint8 | np.int32] | None
    """[vocabulary] bytes of each token; None: borders are found by ``tokenizers``, slowly."""
    most_resident_bytes: int = 1 << 30
    """Memory that a worker may have; the cache of the fast engine has no bound of its own."""

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
        """Build the fast engine anew when the next batch could make its cache too large."""
        if self.fast and resident_bytes() + _GROWTH_BYTES > self.most_resident_bytes:
            load_fast.cache_clear()
            _resident_when_new.cache_clear()
            release_memory()

    def has_grown(self) -> bool:
        """Say whether the fast engine's cache has grown since the first batch after its building.

        Asked after every batch. What a process holds besides, tables and the buffers of a batch,
        is there again at once: where that alone is more than ``most_resident_bytes``, throwing
        the cache away after every batch would free nothing and take ten times as long.
        """
        return resident_bytes() - _resident_when_new() > _WORTH_BYTES

    def _lay_out(self, drafts: Sequence[Draft]) -> _Texts:
        texts = _Texts()
        tokenizer = self.tokenizer
        stop = tokenizer.stop.encode()
        for draft in drafts:
            if tokenizer.is_hidden(draft.prompt):
                texts.hidden.append(len(texts.texts))
            texts.add_whole(SpanKind.PROMPT, draft.prompt.encode())
            for run, continues in zip(draft.runs, continuing_runs(tokenizer, draft), strict=True):
                if continues:
                    texts.continuing.append(len(texts.texts))
                texts.add(run)
            texts.add_whole(SpanKind.STOP, stop)
            texts.end_document()
        return texts

    def _encode_texts(self, texts: _Texts) -> tuple[Int32s, Int64s]:
        """Return the tokens of all texts and [texts + 1] bounds between them."""
        tokens, bounds = self._encode_plain(texts.texts)
        if texts.continuing:
            others = self._encode_continuing([texts.texts[at] for at in texts.continuing])
            tokens, bounds = _replace(tokens, bounds, texts.continuing, others)
        unsure = {*texts.hidden, *self._runs_with_control(texts, tokens, bounds)}
        unsure.update(self._unspelled(tokens, bounds))
        if not unsure:
            return tokens, bounds
        positions = sorted(unsure)
        continuing = set(texts.continuing)
        exact = [self._encode_exactly(texts, at, continues=at in continuing) for at in positions]
        return _replace(tokens, bounds, positions, exact)

    def _unspelled(self, tokens: Int32s, bounds: Int64s) -> list[int]:
        """Return the texts with bytes for which the vocabulary has no token."""
        if not self.fast or self.tokenizer.fast_stand_ins is None:
            return []
        found = np.flatnonzero(tokens >= self.tokenizer.fast_stand_ins)
        owners: list[int] = np.unique(np.searchsorted(bounds, found, side="right") - 1).tolist()
        return owners

    def _runs_with_control(self, texts: _Texts, tokens: Int32s, bounds: Int64s) -> list[int]:
        """Return the runs in which the engine saw a control token: there it is ordinary text."""
        control = self.tokenizer.control_ids
        among = tokens >= control[0]
        among &= tokens <= control[-1]
        found = np.flatnonzero(among)
        owners = np.searchsorted(bounds, found, side="right") - 1
        # Nearly all are of prompts and stops; what is left is looked at closely.
        inside = self._is_run(texts)[owners]
        runs: list[int] = np.unique(
            owners[inside][np.isin(tokens[found[inside]], control)]
        ).tolist()
        return runs

    def _encode_exactly(self, texts: _Texts, position: int, *, continues: bool) -> Int32s:
        text = texts.texts[position].decode()
        if position in texts.hidden:
            return np.array(self.tokenizer.encode_rendered(text), np.int32)
        if self._is_run(texts)[position]:
            return np.array(
                self.tokenizer.encode_with_begins(text, continues=continues)[0], np.int32
            )
        return np.array(self.tokenizer.encode_whole([text])[0], np.int32)

    @staticmethod
    def _is_run(texts: _Texts) -> npt.NDArray[np.bool_]:
        """Return [texts] whether each is part of a response."""
        is_run = np.ones(len(texts.texts), np.bool_)
        is_run[texts.first_texts[:-1]] = False  # prompts
        is_run[np.array(texts.first_texts[1:], np.int64) - 1] = False  # stops
        return is_run

    def _encode_plain(self, texts: list[bytes]) -> tuple[Int32s, Int64s]:
        if self.fast:
            return encode_fast(load_fast(self.tokenizer), texts)
        encoded = [
            np.array(ids, np.int32)
            for ids in self.tokenizer.encode_whole([text.decode() for text in texts])
        ]
        return np.concatenate(encoded), np.append(0, np.cumsum([len(ids) for ids in encoded]))

    def _encode_continuing(self, texts: list[bytes]) -> list[Int32s]:
        if self.fast:
            return encode_fast_continuing(self.tokenizer, texts)
        return [
            np.array(self.tokenizer.encode_with_begins(text.decode(), continues=True)[0], np.int32)
            for text in texts
        ]

    def _span_starts(self, texts: _Texts, tokens: Int32s, bounds: Int64s) -> Int64s:
        """Return [pieces] the first token of each piece, over all texts."""
        owners = np.array(texts.owners, np.int64)
        offsets = np.array(texts.offsets, np.int64)
        starts = bounds[owners]
        inner = np.flatnonzero(offsets)
        if not len(inner):
            return starts
        unsure = several = np.unique(owners[inner])
        if self.byte_lengths is not None:
            sizes = np.array([len(texts.texts[text]) for text in several.tolist()])
            tails = np.array(texts.tails)
            whole = tails == 0
            if not self.tokenizer.keeps_ascii:
                whole[:] = True
            # The tokens looked at, R in all: the last ones, or all, of every text with borders.
            begin, last = bounds[several], bounds[several + 1]
            first = np.where(whole, begin, np.maximum(begin, last - tails))
            rows = np.append(0, np.cumsum(last - first))
            parts = [tokens[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
            # [R + 1] bytes before each token; a batch holds far fewer than 2^31.
            before = np.zeros(rows[-1] + 1, np.int32)
            np.cumsum(self.byte_lengths.take(np.concatenate(parts)), out=before[1:])
            of_text = np.searchsorted(several, owners[inner])
            wanted = before[rows[of_text + 1]] - (sizes[of_text] - offsets[inner])
            found = np.searchsorted(before[:-1], wanted.astype(np.int32), side="left")
            starts[inner] = found - rows[of_text] + first[of_text]
            # Normalization changed the text: only the tokenizer knows where its characters went.
            spelled = np.diff(before[rows])
            if self.tokenizer.puts_space_in_front:
                spelled -= self._spaces_in_front(texts, several)
            unsure = several[whole & (spelled != sizes)]
        continuing = set(texts.continuing)
        for text in unsure.tolist():
            mine = np.flatnonzero(owners == text)
            exact = self._exact_starts(texts.texts[text], offsets[mine], text in continuing)
            starts[mine] = bounds[text] + exact
        return starts

    @staticmethod
    def _spaces_in_front(texts: _Texts, several: Int64s) -> npt.NDArray[np.int32]:
        """Return [several] 1 where the tokenizer put a space in front of a text."""
        return (~np.isin(several, texts.continuing)).astype(np.int32)

    def _exact_starts(self, text: bytes, offsets: Int64s, continues: bool) -> Int64s:
        """Return the number of tokens of ``text`` that start before each of ``offsets`` (bytes)."""
        wanted = [len(text[:offset].decode()) for offset in offsets.tolist()]
        begins = self.tokenizer.encode_with_begins(text.decode(), continues=continues)[1]
        return np.searchsorted(begins, wanted, side="left")


def _replace(
    tokens: Int32s, bounds: Int64s, positions: Sequence[int], others: Sequence[Int32s]
) -> tuple[Int32s, Int64s]:
    """Return tokens and bounds with other tokens for the texts at ``positions``, which rise."""
    parts, last = [], 0
    counts = np.diff(bounds)
    for position, other in zip(positions, others, strict=True):
        parts += [tokens[last : bounds[position]], other]
        last = int(bounds[position + 1])
        counts[position] = len(other)
    parts.append(tokens[last:])
    return np.concatenate(parts), np.append(0, np.cumsum(counts))


@lru_cache(maxsize=1)
def _resident_when_new() -> int:
    """Return the memory that the process held when this was first asked after ``renew``."""
    return resident_bytes()
