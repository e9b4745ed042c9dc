"""The predictions of a benchmark that is still being generated: one line per finished batch.

A batch is the unit that survives a kill: its line is there whole or not at all. A last line that
was cut is dropped; a broken line before the last means that the file was changed by somebody else.
"""

import os
from pathlib import Path

import msgspec

from longrun.errors import InputError
from longrun.formats.atomic import full_disk_named
from longrun.formats.predictions import Prediction

_decoder = msgspec.json.Decoder(list[Prediction])


class UnfinishedPredictions:
    """Append-only file of finished batches."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left at ``path`` and cut off a torn last line.

        Raises:
            InputError: a line before the last is damaged.
        """
        self._path = path
        self.found: list[Prediction] = []
        """Predictions of the batches that were complete, in the order they were made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_bytes = 0
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            self.found += self._decode(line, number)
            whole_bytes += len(line)
        if lines:
            os.truncate(path, whole_bytes)

    def add(self, batch: list[Prediction]) -> None:
        """Append one finished batch and make it survive a power cut."""
        with full_disk_named(self._path), open(self._path, "ab") as file:
            file.write(msgspec.json.encode(batch) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file: the finished one is in place."""
        self._path.unlink(missing_ok=True)

    def _decode(self, line: bytes, number: int) -> list[Prediction]:
        try:
            return _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"is damaged ({error}); delete the file to generate its solutions again"
            raise InputError.at(self._path, number, problem) from None
