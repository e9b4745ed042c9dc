"""The manifest: what a finished stage made, from what, with which settings.

``manifest.json`` is written last and atomically, so a folder that has one is finished. It holds
the fingerprint of everything that decides the output, the ledger, and the folders it came from,
so that anybody can walk from an output back to the raw records. Its ``seal`` is a hash of all that
is in it besides: what a stage made is trusted by its manifest, so a changed one must not pass.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longrun.errors import InputError
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.ledger import Ledger

MANIFEST_NAME = "manifest.json"
STARTED_NAME = "started.json"
LOCK_NAME = ".lock"
CONFIG_NAME = "config.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One finished stage; times in seconds, sizes in bytes, paths relative to its folder."""

    verb: str
    fingerprint: str
    """Hash over ``verb``, ``settings``, ``inputs`` and ``revision``: what decides the output."""
    settings: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    """Per input name: path -> content fingerprint."""
    revision: int
    """Of the stage's output; raised when the stage makes other output than before."""
    version: str
    """Of the program that made it; for information only."""
    outputs: dict[str, int]
    """Every file below the folder -> its size in bytes."""
    checksums: dict[str, int] = field(default_factory=dict)
    """The same files -> the CRC-32 of their bytes."""
    beneath: dict[str, str] = field(default_factory=dict)
    """Folders of other stages that the output speaks of, relative to its own -> fingerprint."""
    counts: dict[str, float] = field(default_factory=dict)
    ledger: Ledger | None = None
    wall_seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``: the act that finishes a stage."""
        content = asdict(self)
        sealed = {**content, "seal": _seal(content)}
        write_text(folder / MANIFEST_NAME, json.dumps(sealed, indent=2))

    @classmethod
    def read(cls, folder: Path, verb: str | None = None) -> "Manifest":
        """Read the manifest of a finished stage, of the stage ``verb`` if one is named.

        Raises:
            InputError: there is none (the stage has not finished), it is damaged, or it is that of
                another stage.
        """
        path = folder / MANIFEST_NAME
        try:
            raw = json.loads(path.read_bytes())
            if raw.pop("seal") != _seal(raw):
                raise ValueError("its seal does not fit its content")
            ledger = raw.pop("ledger")
            manifest = cls(**raw, ledger=None if ledger is None else Ledger(**ledger))
        except FileNotFoundError:
            found = f"has no {MANIFEST_NAME}" if folder.exists() else "does not exist"
            raise InputError.at(
                folder,
                None,
                f"{found}: not the output of a finished stage; run it, or correct the path",
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError.at(path, None, f"is damaged ({error}); run its stage again") from None
        if verb is not None and manifest.verb != verb:
            problem = f"is output of {manifest.verb}; name an output folder of {verb}"
            raise InputError.at(folder, None, problem)
        return manifest


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
