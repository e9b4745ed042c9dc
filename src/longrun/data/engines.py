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

from longrun.data.compose import Draft
from longrun.formats.processes import release_memory
from longrun.formats.tokens import ExactTokenizer

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


def choose_engine(tokenizer: ExactTokenizer, drafts: Sequence[Draft]) -> bool:
    """Decide whether gigatoken may be used: it must equal ``tokenizers`` on ``drafts``."""
    groups = [(continues, _texts_of(tokenizer, drafts, continues)) for continues in (False, True)]
    groups = [(continues, texts) for continues, texts in groups if texts or not continues]
    expected = [tokenizer.encode_whole(texts, continues=continues) for continues, texts in groups]
    tokenizer.forget()  # two tokenizers at a time would be the most that a worker ever holds
    num_texts = num_tokens = 0
    for (continues, texts), whole in zip(groups, expected, strict=True):
        try:
            engine = load_fast(tokenizer, continues=continues)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            log.info("tokens by tokenizers: gigatoken cannot load this tokenizer (%s)", reason)
            return False
        stand_ins = tokenizer.fast_stand_ins
        for text, ids in zip(texts, whole, strict=True):
            found = engine.encode(text)
            if stand_ins is not None and (found >= stand_ins).any():
                continue  # such a text is left to tokenizers
            if found.tolist() != ids:
                log.warning(
                    "tokens by tokenizers, slowly: gigatoken differs from it on %r", text[:80]
                )
                return False
            num_tokens += len(ids)
        num_texts += len(texts)
    log.info(
        "tokens by gigatoken: equal to tokenizers on %d sampled texts (%d tokens)",
        num_texts,
        num_tokens,
    )
    return True


def _texts_of(tokenizer: ExactTokenizer, drafts: Sequence[Draft], continues: bool) -> list[str]:
    """Return the texts of ``drafts`` that go on, or those that do not."""
    texts = []
    for draft in drafts:
        kinds = [False, *continuing_runs(tokenizer, draft)]
        found = [draft.prompt, *(run.text.decode() for run in draft.runs)]
        texts += [text for text, kind in zip(found, kinds, strict=True) if kind is continues]
    return texts
