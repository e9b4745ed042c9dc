"""The two engines that make tokens: gigatoken, and ``tokenizers``, which it must equal.

gigatoken is about a hundred times faster. It is used when it equals ``tokenizers`` on a sample of
the user's own records, and ``tokenizers`` otherwise.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gigatoken
import numpy as np
import numpy.typing as npt

from longrun.data.documents.compose import Draft
from longrun.formats.processes import release_memory
from longrun.formats.text.exact_tokenizer import ExactTokenizer

_END_BYTES = 256
"""What of a text decides whether the next one goes on: no added token is longer."""
log = logging.getLogger(__name__)

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


def continuing_runs(tokenizer: ExactTokenizer, draft: Draft) -> list[bool]:
    """Return for every run of ``draft`` whether it gets no space in front, because it goes on."""
    if not tokenizer.puts_space_in_front:
        return [False] * len(draft.runs)
    before = [draft.prompt, *(run.text[-_END_BYTES:].decode(errors="ignore") for run in draft.runs)]
    return [tokenizer.continues(text) for text in before[:-1]]


@lru_cache(maxsize=2)
def load_fast(tokenizer: ExactTokenizer, *, continues: bool = False) -> Any:
    """Load the tokenizer into gigatoken; ``continues``: for texts that go on.

    Raises:
        RuntimeError: gigatoken does not know a tokenizer of this kind.
    """
    engine = gigatoken.Tokenizer.from_json(tokenizer.fast_content(continues=continues))
    release_memory()  # reading the file took half as much again
    return engine


def encode_fast(engine: Any, texts: list[bytes]) -> tuple[Int32s, Int64s]:
    """Return the tokens of all texts and [texts + 1] bounds between them."""
    layout = engine.encode_batch(texts, parallel=False).layout
    bounds = np.asarray(layout.offsets.data, np.int64)
    tokens = np.asarray(layout.content.data).view(np.int32)
    return tokens[bounds[0] : bounds[-1]], bounds - bounds[0]


def encode_fast_continuing(tokenizer: ExactTokenizer, texts: Sequence[bytes]) -> list[Int32s]:
    """Return the tokens of texts that go on; see ``ExactTokenizer.continues``."""
    cut = [tokenizer.cut_continuing(text) for text in texts]
    heads = encode_fast(load_fast(tokenizer, continues=True), [head for head, _ in cut])
    rests = encode_fast(load_fast(tokenizer), [rest for _, rest in cut])
    pairs = zip(*(np.split(tokens, bounds[1:-1]) for tokens, bounds in (heads, rests)), strict=True)
    return [np.concatenate(pair) for pair in pairs]


def choose_engine(tokenizer: ExactTokenizer, drafts: Sequence[Draft]) -> bool:
    """Decide whether gigatoken may be used: it must equal ``tokenizers`` on ``drafts``."""
    plain, going_on = _texts_of(tokenizer, drafts)
    expected = tokenizer.encode_whole([text.decode() for text in plain])
    expected += [
        tokenizer.encode_with_begins(text.decode(), continues=True)[0] for text in going_on
    ]
    tokenizer.forget()  # two tokenizers at a time would be the most that a worker ever holds
    try:
        engine = load_fast(tokenizer)
        found = [engine.encode(text) for text in plain]
        found += encode_fast_continuing(tokenizer, going_on) if going_on else []
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        log.info("tokens by tokenizers: gigatoken cannot load this tokenizer (%s)", reason)
        return False
    stand_ins = tokenizer.fast_stand_ins
    for text, ids, tokens in zip([*plain, *going_on], expected, found, strict=True):
        left_out = stand_ins is not None and bool((tokens >= stand_ins).any())
        if not left_out and tokens.tolist() != ids:
            log.warning("tokens by tokenizers, slowly: gigatoken differs from it on %r", text[:80])
            return False
    log.info(
        "tokens by gigatoken: equal to tokenizers on %d sampled texts (%d tokens)",
        len(expected),
        sum(map(len, expected)),
    )
    return True


def _texts_of(
    tokenizer: ExactTokenizer, drafts: Sequence[Draft]
) -> tuple[list[bytes], list[bytes]]:
    """Return the texts of ``drafts`` that stand alone, and those that go on."""
    plain: list[bytes] = []
    going_on: list[bytes] = []
    for draft in drafts:
        plain.append(draft.prompt.encode())
        for run, continues in zip(draft.runs, continuing_runs(tokenizer, draft), strict=True):
            (going_on if continues else plain).append(run.text)
    return plain, going_on
