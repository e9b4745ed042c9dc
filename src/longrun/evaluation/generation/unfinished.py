"""The predictions of a benchmark that is still being generated: one line per finished solution.

A solution survives a kill as soon as it is finished, and a power cut a second later. A last line
that was cut is dropped, its solution is written again; a broken line before the last means that
the file was changed by somebody else.
"""

import os
import time
from pathlib import Path

import msgspec

from longrun.errors import InputError
from longrun.formats.predictions import Prediction
from longrun.formats.stages.atomic import full_disk_named

_FLUSH_SECONDS = 1.0
_decoder = msgspec.json.Decoder(Prediction)


class UnfinishedPredictions:
    """Append-only file of finished solutions."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left at ``path`` and cut off a torn last line.

        Raises:
            InputError: a line before the last is damaged.
        """
        self._path = path
        self.found: list[Prediction] = []
        """What was complete, in the order in which it was finished."""
        self._flushed_at = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_bytes = 0
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            self.found.append(self._decode(line, number))
            whole_bytes += len(line)
        if lines:
            os.truncate(path, whole_bytes)

    def add(self, prediction: Prediction) -> None:
        """Append one finished solution."""
        with full_disk_named(self._path), open(self._path, "ab") as file:
            file.write(msgspec.json.encode(prediction) + b"\n")
            file.flush()
            # Waiting for the disk after every solution would take longer than a tiny model does.
            if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
                os.fsync(file.fileno())
                self._flushed_at = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the finished one is in place."""
        self._path.unlink(missing_ok=True)

    def _decode(self, line: bytes, number: int) -> Prediction:
        try:
            return _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"is damaged ({error}); delete the line to generate its solution again"
            raise InputError.at(self._path, number, problem) from None
