"""The start-up check of prepare: prompts, runs and stops are those of transformers, or nothing is.

A sample of the user's own records is compared with what transformers makes of the folder of the
tokenizer: rendered by its ``apply_chat_template``, encoded by the tokenizer that it holds. Records
with look-alikes of control tokens are left out: they are text here and control tokens there.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from longrun.checkpoint.tokenizer_reading import Question, Reading, ask_transformers
from longrun.data.documents.compose import Composer, Draft
from longrun.data.documents.engines import continuing_runs
from longrun.data.documents.finish import TOKENIZER, copy_tokenizer
from longrun.errors import InputError
from longrun.formats.text.conversation import as_messages
from longrun.formats.text.exact_tokenizer import ExactTokenizer

_COMPARED_DRAFTS = 16
_SHOWN_TOKENS = 4
log = logging.getLogger(__name__)


def take_tokenizer(folder: Path, composer: Composer, sample: Sequence[Draft]) -> ExactTokenizer:
    """Put the tokenizer, as transformers reads it, into ``folder`` and return it, checked.

    Raises:
        InputError: transformers cannot read it, or makes other tokens of the sample.
    """
    source, conversation = composer.tokenizer, composer.conversation
    if (folder / TOKENIZER).exists():  # it was checked when it was put there
        return ExactTokenizer(folder / TOKENIZER, source.stop)
    chosen = [draft for draft in sample if not any(map(source.holds_control, draft.texts))]
    chosen = chosen[:_COMPARED_DRAFTS]
    texts = _texts(source, chosen)
    question = Question(
        folder=str(source.folder),
        chat_template=conversation.chat_template,
        special_tokens=conversation.special_tokens,
        conversations=[as_messages(draft.texts[:-1]) for draft in chosen],
        texts=texts,
    )
    reading = ask_transformers(question)
    if reading.content is not None:
        log.warning(
            "transformers reads %s otherwise than its tokenizer.json says; its reading is used and"
            " exported",
            source.folder,
        )
    copy_tokenizer(source.folder, folder, conversation, reading.content)
    taken = ExactTokenizer(folder / TOKENIZER, source.stop)
    _compare(taken, chosen, texts, reading)
    log.info("prompts and responses of %d sampled records: as transformers has them", len(chosen))
    return taken


def _texts(tokenizer: ExactTokenizer, drafts: Sequence[Draft]) -> list[str]:
    """Return the stop and the runs that transformers can encode on their own."""
    runs = [
        run.text.decode()
        for draft in drafts
        for run, continues in zip(draft.runs, continuing_runs(tokenizer, draft), strict=True)
        if not continues
    ]
    return [tokenizer.stop, *runs]


def _compare(
    tokenizer: ExactTokenizer, drafts: Sequence[Draft], texts: Sequence[str], reading: Reading
) -> None:
    for draft, theirs in zip(drafts, reading.prompts, strict=True):
        _refuse_difference(tokenizer, "the prompt", tokenizer.encode_rendered(draft.prompt), theirs)
    for text, theirs in zip(texts, reading.texts, strict=True):
        ours = tokenizer.encode_whole([text])[0]
        _refuse_difference(tokenizer, f"{text[:40]!r}", ours, theirs)


def _refuse_difference(
    tokenizer: ExactTokenizer, what: str, ours: Sequence[int], theirs: Sequence[int]
) -> None:
    if ours == theirs:
        return
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    one, other = (tokenizer.spell(ids[same : same + _SHOWN_TOKENS]) for ids in (ours, theirs))
    raise InputError.at(
        tokenizer.path,
        None,
        f"token {same} of {what} is read in two ways: {one} here and {other} by transformers; save"
        " the tokenizer again with transformers' save_pretrained",
    )
