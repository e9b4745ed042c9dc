"""Turn one part of the raw data into one shard per split; what every worker of prepare does.

A part is complete when its tally exists, which is written after both shards. Work on a part
depends on the part and the recipe alone, so interrupted work done again gives the same bytes.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longrun.data.documents.compose import Composer, Draft, Dropped
from longrun.data.documents.duplicates import load_repeats
from longrun.data.documents.encode import Encoder
from longrun.data.documents.finish import PARTS, tally_path
from longrun.data.documents.shards import ShardWriter
from longrun.data.documents.tally import Tally
from longrun.data.records.sources import Part, fault, read_part
from longrun.errors import InputError
from longrun.formats.plans import TRAIN, VALIDATION

_BATCH_BYTES = 2 << 20
"""Text (bytes) that is tokenized at a time; bounds the memory of a worker."""


class Read(NamedTuple):
    """What was read since the last report."""

    num_bytes: int
    records: int


ReportRead = Callable[[Read], None]


@dataclass(frozen=True)
class PrepareJob:
    """Everything that a worker needs; pickled once to each."""

    folder: Path
    composer: Composer
    encoder: Encoder

    def start(self) -> Callable[[Part, ReportRead], None]:
        """Return the function that prepares one part."""
        return PartWorker(self.folder, self.composer, self.encoder).prepare


@dataclass
class PartWorker:
    """Prepares parts one after the other, keeping its tokenizer warm."""

    folder: Path
    composer: Composer
    encoder: Encoder

    def prepare(self, part: Part, report: ReportRead) -> None:
        """Write the shards and the tally of ``part``.

        Raises:
            InputError: a record cannot be used; the message has its file and line.
        """
        tally = Tally()
        with (
            closing(self.drafts(part, report, tally)) as found,
            ShardWriter(self.folder / TRAIN, part.name) as training,
            ShardWriter(self.folder / VALIDATION, part.name) as validation,
        ):
            for drafts in _batches(found):
                self._write(part, drafts, tally, (training, validation))
                if self.encoder.has_grown():
                    self.encoder.renew()
        tally.checksums = training.checksums | validation.checksums
        tally.save(tally_path(self.folder, part.name))

    def drafts(self, part: Part, report: ReportRead, tally: Tally) -> Generator[Draft, None, None]:
        """Yield what the records of ``part`` become; ``tally`` counts the rest.

        Raises:
            InputError: as ``prepare``.
        """
        repeats = load_repeats(self.folder / PARTS, part)
        told = 0

        def tell(num_bytes: int) -> None:
            nonlocal told
            report(Read(num_bytes, tally.ledger.records_in - told))
            told = tally.ledger.records_in

        with closing(read_part(part, tell)) as records:
            for line, record in enumerate(records):
                tally.lines += 1
                if record is None:
                    continue
                tally.ledger.take()
                try:
                    draft = self.composer.compose(line, record, part.file, line in repeats)
                except InputError as error:
                    raise fault(part, line, str(error)) from None
                if isinstance(draft, Dropped):
                    tally.drop(draft.reason, line)
                else:
                    yield draft

    def _write(
        self,
        part: Part,
        drafts: list[Draft],
        tally: Tally,
        writers: tuple[ShardWriter, ShardWriter],
    ) -> None:
        batch = self.encoder.encode(drafts)
        filters = self.composer.filters
        kept = np.ones(len(drafts), np.bool_)
        lengths = np.diff(batch.first_tokens)
        counts = zip(batch.prompt_tokens.tolist(), batch.response_tokens().tolist(), strict=True)
        for at, (draft, (prompt, response)) in enumerate(zip(drafts, counts, strict=True)):
            refused_by = filters.refuse_by_tokens(draft.mode, prompt, response, draft.refused_by)
            if refused_by is not None:
                kept[at] = False
                reason = filters.reason(refused_by)
                tally.drop(reason, draft.line, tokens=int(lengths[at]))
        tally.keep(batch, drafts, kept)
        modes = list(self.composer.conversation.prompts)
        held_out = np.array([draft.held_out for draft in drafts])
        for writer, chosen in zip(writers, (kept & ~held_out, kept & held_out), strict=True):
            rows = (drafts[at] for at in np.flatnonzero(chosen))
            lineage = [
                (part.file.number, row.line, row.problem, modes.index(row.mode)) for row in rows
            ]
            writer.write(batch, chosen, lineage)


def _batches(drafts: Iterator[Draft]) -> Iterator[list[Draft]]:
    """Collect drafts until their text fills a batch."""
    batch: list[Draft] = []
    size = 0
    for draft in drafts:
        batch.append(draft)
        size += draft.size
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
