"""Where the CPU seconds of ``prepare`` go: each part of a worker's loop by itself, per GB of JSONL.

    python bench/prepare_parts.py --records a.jsonl b.jsonl --tokenizer FOLDER --out result.json

Every part runs over the same records in one process, all parts in turn, and the least of the
rounds counts, so that what else the machine does enters little. What is indented is contained in
the line above it. Caches are warm, as they are after the first seconds of a run.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from isal import isal_zlib

from corpus import generated_rows, read_rows, write_corpus
from longrun.config.stages import PrepareConfig
from longrun.data.documents.compose import TOOL_MODE, Composer, Draft
from longrun.data.documents.encode import EncodedBatch, Encoder
from longrun.data.documents.engines import encode_fast, load_fast
from longrun.data.documents.part_worker import PartWorker
from longrun.data.documents.prepare import load_conversation
from longrun.data.documents.shards import ShardWriter
from longrun.data.documents.tally import Tally
from longrun.data.records.sources import cut_parts, list_files, read_part
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.spans import split_response

BATCH_BYTES = 2 << 20
Part = Callable[[], object]


def main() -> None:
    """Measure every part and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, nargs="*", default=[])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = read_rows(options.records) if options.records else generated_rows()
    with tempfile.TemporaryDirectory() as name:
        records = Path(name) / "records.jsonl"
        write_corpus(records, rows, options.megabytes * 1_000_000, seed=0)
        seconds = measure(list_parts(records, options.tokenizer, Path(name)), options.rounds)
        gigabytes = records.stat().st_size / 1e9
    per_gb = {part: least / gigabytes for part, least in seconds.items()}
    per_gb["sum"] = sum(value for part, value in per_gb.items() if not part.startswith(" "))
    for part, value in per_gb.items():
        print(f"{part:34s} {value:6.2f} CPU s per GB")
    if options.out:
        options.out.write_text(json.dumps(per_gb, indent=1) + "\n")


def measure(parts: dict[str, Part], rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each part; drafts are what is left of the whole reading."""
    least = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, part in parts.items():
            began = time.process_time()
            part()
            least[name] = min(least[name], time.process_time() - began)
    least["compose"] -= least["decode"]
    least["decode"] -= least["read"]
    return least


def list_parts(records: Path, tokenizer_folder: Path, scratch: Path) -> dict[str, Part]:
    """Return the parts of the loop, each over all records. ``decode`` reads and ``compose`` too."""
    config = PrepareConfig.parse(
        {"data": str(records), "tokenizer": tokenizer_folder, "output_dir": scratch / "out"},
        "prepare",
    )
    conversation = load_conversation(config)
    tokenizer = ExactTokenizer(config.tokenizer, conversation.stop)
    composer = Composer(config, conversation, tokenizer)
    encoder = Encoder(tokenizer, True, tokenizer.byte_lengths(), 1 << 40)
    worker = PartWorker(scratch, composer, encoder)
    part = cut_parts(list_files(config.data), 1 << 40)[0]
    drafts = list(worker.drafts(part, lambda _: None, Tally()))
    batches = list(_batches(drafts))
    encoded = [encoder.encode(batch) for batch in batches]
    engine = load_fast(tokenizer)
    texts = [[text for draft in batch for text in _texts(draft, tokenizer)] for batch in batches]
    solutions = [
        (
            row["generated_solution"],
            conversation.code if row["inference_mode"] == TOOL_MODE else None,
        )
        for row in read_part(part, lambda _: None)
        if row is not None
    ]
    raw = [(solution.encode(), code) for solution, code in solutions]
    return {
        "read": lambda: [len(line) for line in open(records, "rb", buffering=1 << 20)],
        "decode": lambda: _exhaust(read_part(part, lambda _: None)),
        "compose": lambda: _exhaust(worker.drafts(part, lambda _: None, Tally())),
        "  solutions to UTF-8": lambda: [solution.encode() for solution, _ in solutions],
        "  spans": lambda: [split_response(solution, code) for solution, code in raw],
        "encode": lambda: [encoder.encode(batch) for batch in batches],
        "  the engine alone": lambda: [encode_fast(engine, some) for some in texts],
        "tally": lambda: _tally(encoded, batches),
        "write": lambda: _write(scratch, encoded, batches),
        "  CRC-32": lambda: [isal_zlib.crc32(batch.tokens.data) for batch in encoded],
    }


def _batches(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    batch: list[Draft] = []
    size = 0
    for draft in drafts:
        batch.append(draft)
        size += len(draft.prompt) + sum(len(run.text) for run in draft.runs)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _texts(draft: Draft, tokenizer: ExactTokenizer) -> list[bytes]:
    runs = [run.text for run in draft.runs]
    return [draft.prompt.encode(), *runs, tokenizer.stop.encode()]


def _exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def _tally(encoded: Sequence[EncodedBatch], batches: Sequence[list[Draft]]) -> None:
    tally = Tally()
    for one, batch in zip(encoded, batches, strict=True):
        tally.keep(one, batch, np.ones(len(batch), np.bool_))


def _write(folder: Path, encoded: Sequence[EncodedBatch], batches: Sequence[list[Draft]]) -> None:
    with ShardWriter(folder, "00000") as shard:
        for one, batch in zip(encoded, batches, strict=True):
            shard.write(one, np.ones(len(batch), np.bool_), [(0, 0, 0, 0)] * len(batch))


if __name__ == "__main__":
    main()
