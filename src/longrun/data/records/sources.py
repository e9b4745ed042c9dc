"""Raw records: which files there are, how they are cut into parts, and how a part is read.

A *part* is what one worker reads at a time and writes as one shard. Plain JSONL is cut by bytes,
so one big file is shared by all workers; a line belongs to the part in which it begins::

    bytes   0         10        20        30
    lines   aaaaaaaaaaaaa|bbbb|cccccccccccc|dd|
    parts   0 .......... | 1 .......... | 2 ...     part_bytes = 14
    lines   a              b c            d

Compressed JSONL, Parquet and Arrow are one part per file; a folder that ``datasets`` saved stands
for its Arrow files. Nothing here knows what a record means.
"""

import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from longrun.config.settings import expand
from longrun.config.stages import DataSource
from longrun.data.records.json_records import record_decoder
from longrun.errors import InputError
from longrun.formats.json_text import JsonError
from longrun.formats.tables import rows_of
from longrun.formats.text.placeholders import NullColumnError, fill_template

_PLAIN = (".jsonl", ".ndjson", ".json")
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_PARQUET = ".parquet"
_ARROW = ".arrow"
_ARROW_FILE_MAGIC = b"ARROW1"
_DATASET_STATE, _DATASET_SPLITS = "state.json", "dataset_dict.json"
_BUFFER_BYTES = 1 << 20
_ROWS_AT_A_TIME = 256
_REMEDY = "write one JSON object a line in UTF-8, or remove the line"

Records = Generator[dict[str, Any] | None, None, None]
"""Close it when you do not read it to its end: it holds an open file."""
Report = Callable[[int], None]
"""Called with the number of bytes that were read since the last call."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of raw records."""

    path: Path
    number: int
    """Position among all files of the stage; lineage rows name it."""
    columns: Mapping[str, str]
    """Expected column -> ``str.format`` template over the raw record."""
    setting: str
    """Where the file was named, as ``data.0``."""
    layout: str | None = None
    """Layout of prompts that are filled in already; None: they are not."""

    @property
    def is_plain(self) -> bool:
        """Whether the file can be read from any byte on."""
        return self.path.suffix in _PLAIN


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one file: the lines that begin in ``begin <= byte < end``."""

    number: int
    file: SourceFile
    begin: int
    end: int

    @property
    def name(self) -> str:
        """The name of the part's shard.

        >>> Part(7, SourceFile(Path("a.jsonl"), 0, {}, "data.0"), 0, 10).name
        '00007'
        """
        return f"{self.number:05d}"

    @property
    def num_bytes(self) -> int:
        """Bytes of the file that belong to the part."""
        return self.end - self.begin


def list_files(data: Sequence[DataSource]) -> list[SourceFile]:
    """Expand the sources of a config to files, in the order of the config.

    Raises:
        InputError: a pattern matches nothing, or a file is absent, a folder, empty, or of a kind
            that cannot be read.
    """
    files: list[SourceFile] = []
    for index, source in enumerate(data):
        setting = f"data.{index}"
        paths = expand(source.path)
        if not paths:
            raise InputError(f"{setting}.path {source.path}: matches no file")
        for path in (file for named in paths for file in _files_of(named)):
            _check_file(path, setting)
            files.append(SourceFile(path, len(files), source.columns, setting, source.layout))
    return files


def cut_parts(files: Sequence[SourceFile], part_bytes: int) -> list[Part]:
    """Cut the files into parts of at most ``part_bytes``; the cut depends on nothing else."""
    parts: list[Part] = []
    for file in files:
        size = file.path.stat().st_size
        step = part_bytes if file.is_plain else size
        for begin in range(0, size, step):
            parts.append(Part(len(parts), file, begin, min(begin + step, size)))
    return parts


def read_part(part: Part, report: Report) -> Records:
    """Yield the record of every line of a part, in order; None for a blank line.

    Raises:
        InputError: a line is not a JSON object in UTF-8, or the file is damaged. The message has
            the line of the file, counted from 1.
    """
    if part.file.path.suffix in (_PARQUET, _ARROW):
        yield from _read_tables(part, report)
        return
    decode = record_decoder()
    with closing(_read_lines(part, report)) as lines:
        for line, text in enumerate(lines):
            try:
                record = None if text.isspace() else decode(text)
            except JsonError as error:
                raise fault(part, line, f"{error}; {_REMEDY}") from None
            yield record


def fault(part: Part, line: int, problem: str) -> InputError:
    """Build the error for ``problem`` at ``line`` (from 0) of ``part``."""
    return InputError(f"{where(part, line)}: {problem}")


def where(part: Part, line: int) -> str:
    """Return ``file:line`` of ``line`` (from 0) of ``part``; reads the file up to the part."""
    first_line = 0
    if part.begin:
        with open(part.file.path, "rb") as file:
            first_line = _count_lines(file, part.begin)
    return f"{part.file.path}:{first_line + line + 1}"


def map_columns(columns: Mapping[str, str], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``record`` with the columns that ``columns`` names filled in from their templates.

    A column whose template names a null is null.

    Raises:
        InputError: a template names a column that the record lacks or that holds no text, or is
            no template.
    """
    mapped = dict(record)
    for name, template in columns.items():
        try:
            mapped[name] = fill_template(template, record)
        except NullColumnError:
            mapped[name] = None
        except KeyError as error:
            raise InputError(
                f"column {error.args[0]} is missing, columns.{name} needs it; the record has"
                f" {_names(record)}"
            ) from None
        except InputError as error:
            raise InputError(f"columns.{name} cannot be filled: {error}") from None
        except ValueError as error:
            raise InputError(
                f"columns.{name} cannot be filled ({error}); double a literal brace"
            ) from None
    return mapped


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(record) or "no column"


def _files_of(path: Path) -> list[Path]:
    """Return the Arrow files of a folder that ``datasets`` saved, in its order; else ``path``."""
    state = path / _DATASET_STATE
    if not state.is_file():
        return [path]
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        return [path / file["filename"] for file in content["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError.at(state, None, f"is damaged ({error}); save the data set again") from None


def _check_file(path: Path, setting: str) -> None:
    if (path / _DATASET_SPLITS).is_file():
        splits = sorted(inside.parent.name for inside in path.glob(f"*/{_DATASET_STATE}"))
        raise InputError.at(
            path, None, f"{setting}.path holds the splits {', '.join(splits)}; name one of them"
        )
    if path.is_dir():
        raise InputError.at(
            path, None, f"{setting}.path names a folder; name its files, as in {path}/*.jsonl"
        )
    if not path.is_file():
        raise InputError.at(path, None, f"{setting}.path: there is no such file")
    inner = Path(path.stem).suffix if path.suffix in _COMPRESSION else path.suffix
    if inner not in _PLAIN and not (inner in (_PARQUET, _ARROW) and inner == path.suffix):
        raise InputError.at(
            path,
            None,
            f"{setting}.path: must end in .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .arrow",
        )
    if path.stat().st_size == 0:
        raise InputError.at(path, None, f"{setting}.path: is empty; take it out or fill it")


def _read_lines(part: Part, report: Report) -> Generator[bytes, None, None]:
    path = part.file.path
    try:
        if part.file.is_plain:
            with open(path, "rb", buffering=_BUFFER_BYTES) as file:
                yield from _lines_between(file, part, report)
        else:
            compression = _COMPRESSION[path.suffix]
            with pa.input_stream(str(path), compression=compression) as stream:
                yield from io.BufferedReader(stream, _BUFFER_BYTES)
            report(part.num_bytes)
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error}); fetch it again") from None


def _lines_between(file: IO[bytes], part: Part, report: Report) -> Iterator[bytes]:
    position = part.begin
    if position:
        # The line that holds the byte before the part belongs to the part before.
        file.seek(position - 1)
        position += len(file.readline()) - 1
    told = part.begin
    while position < part.end and (line := file.readline()):
        position += len(line)
        if position - told >= _BUFFER_BYTES:
            report(min(position, part.end) - told)
            told = min(position, part.end)
        yield line
    report(part.end - told)


def _read_tables(part: Part, report: Report) -> Records:
    path = part.file.path
    told, rows = 0, 0
    try:
        with ExitStack() as stack:
            total, batches = _open_table(path, stack)
            for batch in batches:
                for begin in range(0, len(batch), _ROWS_AT_A_TIME):
                    yield from rows_of(batch.slice(begin, _ROWS_AT_A_TIME))
                rows += len(batch)
                report(part.num_bytes * rows // total - told)
                told = part.num_bytes * rows // total
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError.at(path, None, f"cannot be read ({error}); fetch it again") from None


def _open_table(path: Path, stack: ExitStack) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Return the number of rows and the batches of a Parquet or Arrow file."""
    if path.suffix == _PARQUET:
        table = stack.enter_context(pq.ParquetFile(path))
        batches = table.iter_batches(_ROWS_AT_A_TIME, use_threads=False)
        return max(table.metadata.num_rows, 1), batches
    with open(path, "rb") as file:
        is_file = file.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
    source = stack.enter_context(pa.memory_map(str(path)))
    if is_file:
        reader = pa.ipc.open_file(source)
        every = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    else:
        every = list(pa.ipc.open_stream(source))
    # Views into the mapped file: nothing was read but the layout.
    return max(sum(map(len, every)), 1), iter(every)


def _count_lines(file: IO[bytes], end: int) -> int:
    """Count the lines that begin before byte ``end``."""
    count, left = 0, end - 1
    while left > 0 and (block := file.read(min(left, _BUFFER_BYTES))):
        count += block.count(b"\n")
        left -= len(block)
    return count + 1
