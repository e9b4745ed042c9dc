"""Which records repeat an earlier one: decided for all parts before any of them is prepared.

Every worker notes a 64-bit key of each record of a part; then the first record of every key, in
the order of the data, stays. So the answer does not depend on which worker did what. Eight bytes
of memory a record; two different records share a key once in about 10^19 pairs.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longrun.data.records.filled_prompts import expected_record
from longrun.data.records.filters import require_text
from longrun.data.records.sources import Part, Report, fault, read_part
from longrun.errors import InputError
from longrun.formats.stages.arrays import write_array
from longrun.formats.stages.atomic import atomic_file
from longrun.formats.text.conversation import Conversation

_COLUMNS = {"problem": ("problem",), "record": ("problem", "generated_solution")}


@dataclass(frozen=True)
class KeyJob:
    """Notes the keys of parts; pickled once to each worker."""

    folder: Path
    by: str
    """``problem`` or ``record``."""
    conversation: Conversation

    def start(self) -> Callable[[Part, Report], None]:
        """Return the function that notes the keys of one part."""
        return self._note

    def _note(self, part: Part, report: Report) -> None:
        keys: list[int] = []
        with closing(read_part(part, report)) as records:
            for line, raw in enumerate(records):
                if raw is None:
                    keys.append(0)
                    continue
                try:
                    record = expected_record(raw, part.file, self.conversation)
                    texts = [require_text(record, column) for column in _COLUMNS[self.by]]
                except InputError as error:
                    raise fault(part, line, str(error)) from None
                keys.append(_key(texts))
        with atomic_file(keys_path(self.folder, part)) as file:
            write_array(file, np.array(keys, np.uint64))


def keys_path(folder: Path, part: Part) -> Path:
    """Return the file of a part's keys."""
    return folder / f"{part.name}.keys.npy"


def mark_repeats(folder: Path, parts: Sequence[Part]) -> None:
    """Write, for every part, the lines that repeat an earlier record of any part."""
    keys = [np.load(keys_path(folder, part), allow_pickle=False) for part in parts]
    counts = [len(one) for one in keys]
    joined = np.concatenate(keys)
    repeats = np.ones(len(joined), np.bool_)
    repeats[np.unique(joined, return_index=True)[1]] = False
    for part, mine in zip(parts, np.split(repeats, np.cumsum(counts)[:-1]), strict=True):
        with atomic_file(_repeats_path(folder, part)) as file:
            write_array(file, np.flatnonzero(mine))


def load_repeats(folder: Path, part: Part) -> frozenset[int]:
    """Return the lines of a part that repeat an earlier record; none where nobody looked."""
    path = _repeats_path(folder, part)
    if not path.exists():
        return frozenset()
    lines: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
    return frozenset(lines.tolist())


def remove_marks(folder: Path) -> None:
    """Delete what this module wrote; nobody needs it when all parts are prepared."""
    for kind in ("keys", "repeats"):
        for path in folder.glob(f"*.{kind}.npy"):
            path.unlink()


def _repeats_path(folder: Path, part: Part) -> Path:
    return folder / f"{part.name}.repeats.npy"


def _key(texts: Sequence[str]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(" ".join(text.split()).encode() + b"\0")
    return int.from_bytes(digest.digest(), "little") | 1
