"""The stage ``prepare``: raw records to tokenized documents with typed spans.

    files -> parts (byte ranges) -> workers -> one shard per part and split -> figures, tokenizer

The output depends on the data and the recipe alone: not on the number of workers, on their order,
or on interruptions. Nothing is packed here, and no weight of the loss is decided.
"""

import logging
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from shutil import rmtree

from longrun.config.stages import PrepareConfig
from longrun.data.documents.compose import Composer, Draft, Run
from longrun.data.documents.duplicates import KeyJob, keys_path, mark_repeats, remove_marks
from longrun.data.documents.encode import Encoder
from longrun.data.documents.engines import choose_engine
from longrun.data.documents.finish import (
    PARTS,
    STATS_NAME,
    TOKENIZER,
    PartIndex,
    copy_tokenizer,
    finish_documents,
    finish_figures,
    tally_path,
)
from longrun.data.documents.held_to_transformers import take_tokenizer
from longrun.data.documents.part_worker import PartWorker, PrepareJob, Read
from longrun.data.documents.tally import Tally
from longrun.data.documents.workers import run_tasks
from longrun.data.records.prompts import OWN_TEMPLATE, choose_template, load_prompts, load_template
from longrun.data.records.sources import Part, cut_parts, list_files
from longrun.errors import InputError
from longrun.formats.documents import SOURCES_NAME
from longrun.formats.plans import TRAIN, VALIDATION
from longrun.formats.processes import available_cores
from longrun.formats.stages.manifest import CONFIG_NAME, STARTED_NAME, Manifest
from longrun.formats.stages.progress import Progress, format_count, show_progress
from longrun.formats.stages.stage import Stage, open_stage
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import CONVERSATION_NAME, Conversation
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.fixed_templates import fix_date, fix_token, names_variable
from longrun.formats.text.tokenizer_folder import find_stop, named_tokens

_MAIN_MB, _WORKER_MB = 250, 350
"""Memory of the process that hands out parts, and of a worker on records of ordinary size."""
_JUMP_BYTES = 40_000_000
"""A worker grows by so much at once when a table of its encoder's cache doubles."""
_SAMPLED_PARTS = 16
_SAMPLED_DOCUMENTS = 64
_SAMPLED_BYTES = 300_000
"""Text of the start-up comparison of tokenizers; the slow one takes about a second per MB."""
log = logging.getLogger(__name__)


def run(config: PrepareConfig) -> Manifest:
    """Prepare the documents of ``config``.

    Raises:
        InputError: a file or record cannot be used, or no record was kept. Output of a run that
            failed on its records is taken away: mended records are other input.
        StaleError: the output folder holds output of other settings or inputs.
    """
    every = cut_parts(list_files(config.data), config.part_bytes)
    parts = _mine(every, config.part)
    conversation = load_conversation(config)
    tokenizer = ExactTokenizer(config.tokenizer, conversation.stop)
    with open_stage("prepare", config) as stage:
        if stage.finished is not None:
            return stage.finished
        composer = Composer(config, _as_begun(stage.folder, conversation), tokenizer)
        try:
            _prepare_parts(stage.folder, parts, every, composer)
            return _finish(stage, PartIndex.of(every, conversation.prompts), parts, composer)
        except InputError:
            _take_away(stage.folder)
            raise


def _as_begun(folder: Path, conversation: Conversation) -> Conversation:
    """Return ``conversation`` with the date of the first start, and note it down in ``folder``."""
    if conversation.date is None:
        return conversation
    if (folder / CONVERSATION_NAME).is_file():
        begun = Conversation.load(folder)
        return replace(conversation, chat_template=begun.chat_template, date=begun.date)
    conversation.save(folder)
    return conversation


def load_conversation(config: PrepareConfig) -> Conversation:
    """Read prompts and chat template; the wording of notices is not learned yet.

    Raises:
        InputError: one of them is absent or does not fit the tokenizer.
    """
    named = named_tokens(config.tokenizer)
    written = load_template(choose_template(config), config.tokenizer)
    named_day = config.template_date
    day = date.today() if named_day is None else date.fromisoformat(named_day)
    template = fixed = fix_date(written, day)
    stop = find_stop(config.tokenizer, fixed, named)
    eos = named.get("eos_token", "")
    if eos != stop and names_variable(fixed, "eos_token"):
        template = fix_token(fixed, "eos_token", eos)
    return Conversation(
        prompts=load_prompts(config.prompts),
        chat_template=template,
        code=CodeStyle.named(config.code_style),
        stop=stop,
        special_tokens=named | {"eos_token": stop},
        date=None if fixed == written else day.isoformat(),
    )


def share_memory(memory_mb: int, num_workers: int) -> tuple[int, int]:
    """Return how many workers fit into ``memory_mb`` and the bytes that each may hold.

    ``num_workers`` is what was asked for, 0 for one per core.

    >>> share_memory(2048, 2)
    (2, 899000000)
    """
    for_workers = memory_mb - _MAIN_MB
    count = max(1, min(num_workers or available_cores(), for_workers // _WORKER_MB))
    return count, for_workers * 1_000_000 // count


def _mine(parts: list[Part], share: str | None) -> list[Part]:
    """Return the parts of the data that this machine prepares: every M-th, from the N-th on."""
    if share is None:
        return parts
    number, num_parts = map(int, share.split("/"))
    return parts[number - 1 :: num_parts]


def _prepare_parts(folder: Path, parts: list[Part], every: list[Part], composer: Composer) -> None:
    config = composer.config
    for name in (PARTS, TRAIN, VALIDATION):
        (folder / name).mkdir(exist_ok=True)
    missing = [part for part in parts if not tally_path(folder, part.name).exists()]
    if not missing:
        return
    num_workers, most_bytes = share_memory(config.memory_mb, config.num_workers)
    _find_duplicates(folder / PARTS, every, composer, num_workers)
    sample = _sample(folder, every, composer)
    tokenizer = take_tokenizer(folder, composer, sample)
    composer = replace(composer, tokenizer=tokenizer)
    byte_lengths = tokenizer.byte_lengths()
    fast = choose_engine(tokenizer, sample)
    encoder = Encoder(tokenizer, fast, byte_lengths, most_bytes - _JUMP_BYTES)
    total = sum(part.num_bytes for part in parts)
    done = total - sum(part.num_bytes for part in missing)
    _tell_template(composer)
    with show_progress("prepare", total, "bytes", done) as progress:
        job = PrepareJob(folder, composer, encoder)
        run_tasks(job, missing, num_workers, partial(_advance, progress, Counter()))


def _tell_template(composer: Composer) -> None:
    config, day = composer.config, composer.conversation.date
    name = choose_template(config)
    chosen = "the tokenizer's own" if name == OWN_TEMPLATE else name
    log.info("chat template: %s%s", chosen, f", its date fixed at {day}" if day else "")


def _advance(progress: Progress, seen: Counter[str], read: Read) -> None:
    """Show bytes and records a second; ``seen`` counts the records of this run, in place."""
    seen["records"] += read.records
    rate = seen["records"] / max(time.monotonic() - progress.began, 1e-9)
    progress.advance(read.num_bytes, f"{format_count(rate)} records/s")


def _find_duplicates(folder: Path, parts: list[Part], composer: Composer, num_workers: int) -> None:
    by = composer.filters.duplicates_by
    if by is None:
        return
    missing = [part for part in parts if not keys_path(folder, part).exists()]
    total = sum(part.num_bytes for part in missing)
    with show_progress("prepare: duplicates", total, "bytes") as progress:
        run_tasks(KeyJob(folder, by, composer.conversation), missing, num_workers, progress.advance)
    mark_repeats(folder, parts)


def _sample(folder: Path, parts: list[Part], composer: Composer) -> list[Draft]:
    """Return some documents from all over the data."""
    sample: list[Draft] = []
    left = _SAMPLED_BYTES
    reader = PartWorker(folder, composer, Encoder(composer.tokenizer, False, None))
    chosen = parts[:: -(-len(parts) // _SAMPLED_PARTS)]
    for part in chosen:
        with closing(reader.drafts(part, lambda _: None, Tally())) as drafts:
            try:
                found = list(islice(drafts, _SAMPLED_DOCUMENTS // len(chosen)))
            except InputError:
                continue  # named by the worker that comes to this line
        for draft in found:
            if left > 0:
                sample.append(_beginning(draft, left))
                left -= sum(len(run.text) for run in sample[-1].runs)
    return sample


def _beginning(draft: Draft, most_bytes: int) -> Draft:
    """Return ``draft`` without what stands after ``most_bytes`` of its response."""
    runs: list[Run] = []
    left = most_bytes
    for run in draft.runs:
        text = run.text[:left].decode(errors="ignore").encode()
        inside = sum(offset < len(text) for offset in run.offsets)
        runs.append(Run(text, run.kinds[:inside], run.offsets[:inside]))
        left = max(0, left - len(run.text))
    return draft._replace(runs=runs)


def _finish(stage: Stage, index: PartIndex, parts: list[Part], composer: Composer) -> Manifest:
    """Write what belongs to all parts; for some of the parts, what ``merge`` needs to do so."""
    folder = stage.folder
    remove_marks(folder / PARTS)
    index.save(folder)
    conversation = composer.conversation
    tokenizer = composer.tokenizer.folder
    if composer.config.part is None:
        return finish_documents(stage, index, conversation, tokenizer)
    conversation.save(folder)
    copy_tokenizer(tokenizer, folder, conversation)
    total = Tally()
    for part in parts:
        total.add(Tally.load(tally_path(folder, part.name)))
    # Only where all parts are is it known on which line of its file a part begins.
    return finish_figures(stage, total, {})


def _take_away(folder: Path) -> None:
    """Remove the output of a run whose records were refused, so that it can start afresh."""
    for name in (PARTS, TRAIN, VALIDATION, TOKENIZER):
        rmtree(folder / name, ignore_errors=True)
    for name in (
        SOURCES_NAME,
        CONVERSATION_NAME,
        STATS_NAME,
        CONFIG_NAME,
        STARTED_NAME,
    ):
        (folder / name).unlink(missing_ok=True)
