"""The stage contract: a stage is a function from files to files, ``run(config) -> Manifest``.

``open_stage`` looks at the output folder before anything is done:

    manifest there, same fingerprint   finished: the stage does nothing and says so
    manifest there, other fingerprint  refused, the changed setting or input is named
    ``started.json``, same fingerprint interrupted: continue from the parts that are complete
    ``started.json``, other            refused in the same way
    other files there                  refused: the folder belongs to somebody else
    empty or missing                   fresh start

The folder is locked while a stage works in it, so two shells cannot write the same output; the
lock is the operating system's and goes with the process, however it dies.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import longrun
from longrun.config.settings import StageConfig
from longrun.errors import InputError, LaunchError, StaleError
from longrun.formats.stages import damage, fingerprint
from longrun.formats.stages.atomic import full_disk_named, remove_leftovers, write_text
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import (
    CONFIG_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    STARTED_NAME,
    Manifest,
)

LOCK_VARIABLE = "LONGRUN_LOCK_SECONDS"
"""How long to wait for another process to leave the folder: on a cluster, for an earlier attempt
that lives on, on a node that its scheduler has lost."""
_LOCK_SECONDS = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides a stage's output: settings, content of the inputs, revision of the stage."""

    verb: str
    settings: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    revision: int
    """Of the stage's output, see ``StageConfig.output_revision``."""

    @property
    def fingerprint(self) -> str:
        """Hash that does not depend on where files lie, only on what is in them."""
        contents = {name: list(paths.values()) for name, paths in self.inputs.items()}
        return fingerprint.of_value(
            {
                "verb": self.verb,
                "settings": self.settings,
                "inputs": contents,
                "revision": self.revision,
            }
        )


@dataclass(slots=True)
class Stage:
    """One run of a stage in its output folder."""

    folder: Path
    identity: Identity
    finished: Manifest | None
    """The manifest, when there is nothing left to do."""
    started_at: float

    def finish(
        self,
        *,
        counts: Mapping[str, float],
        ledger: Ledger | None = None,
        checksums: Mapping[str, int] | None = None,
        beneath: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Check the ledger, list the outputs, and write the manifest, last of all.

        ``checksums``: the CRC-32 of outputs of which it is known. ``beneath``: see ``Manifest``.
        """
        if ledger is not None:
            ledger.check()
        remove_leftovers(self.folder)
        outputs, found = damage.list_outputs(self.folder, checksums or {})
        manifest = Manifest(
            verb=self.identity.verb,
            fingerprint=self.identity.fingerprint,
            settings=self.identity.settings,
            inputs=self.identity.inputs,
            revision=self.identity.revision,
            version=longrun.__version__,
            outputs=outputs,
            checksums=found,
            beneath=dict(beneath or {}),
            counts=dict(counts),
            ledger=ledger,
            wall_seconds=round(time.time() - self.started_at, 3),
        )
        manifest.write(self.folder)
        (self.folder / STARTED_NAME).unlink(missing_ok=True)
        self.finished = manifest
        log.info("%s: done in %.1f s: %s", manifest.verb, manifest.wall_seconds, self.folder)
        return manifest


def identify(verb: str, config: StageConfig) -> Identity:
    """Say what decides the output of ``verb`` under ``config``.

    Raises:
        InputError: an input does not exist.
    """
    contents = fingerprint.of_inputs(config.inputs())
    return Identity(verb, config.identity(), contents, config.output_revision)


@contextmanager
def open_stage(verb: str, config: StageConfig) -> Iterator[Stage]:
    """Open the output folder of ``verb`` for work; see the module docstring.

    Raises:
        StaleError: the folder holds output of other settings or inputs.
        LaunchError: another process is working in the folder.
        InputError: an input does not exist or is damaged, or the output folder is a file.
    """
    folder = Path(config.output_dir)
    identity = identify(verb, config)
    if folder.exists() and not folder.is_dir():
        raise InputError.at(folder, None, "output_dir is a file; name a folder")
    with full_disk_named(folder / STARTED_NAME):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        finished = _existing(folder, identity, config.another)
        if finished is None:
            _verify_inputs(config)
        started_at = time.time()
        if finished is None:
            remove_leftovers(folder)
            started_at = _mark_started(folder, identity, started_at)
            with full_disk_named(folder / CONFIG_NAME):
                config.save(folder / CONFIG_NAME)
        else:
            log.info("%s: up to date, nothing to do: %s", verb, folder)
        yield Stage(folder, identity, finished, started_at)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[str]:
    """Name every setting that differs, as ``pack.pack_size 32768 -> 16384``.

    >>> differences({"pack_size": 32, "seed": 0}, {"pack_size": 16, "seed": 0}, "pack")
    ['pack.pack_size 32 -> 16']
    """
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}.{key}")
        elif before != after:
            found.append(f"{prefix}.{key} {_short(before)} -> {_short(after)}")
    return found


def compare(folder: Path, identity: Identity) -> list[str]:
    """Name what differs between the output in ``folder`` and ``identity``; empty: nothing."""
    source = folder / MANIFEST_NAME
    if not source.exists():
        source = folder / STARTED_NAME
    try:
        old = json.loads(source.read_text())
        if old["fingerprint"] == identity.fingerprint:
            return []
        found = differences(old["settings"], identity.settings, identity.verb)
        found += changed_inputs(old["inputs"], identity.inputs)
        if old["revision"] != identity.revision:
            found.append(f"output revision {old['revision']} -> {identity.revision}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{source.name} is damaged"]
    return found or [f"{identity.verb} was {old.get('verb')}"]


def _existing(folder: Path, identity: Identity, another: str) -> Manifest | None:
    finished, started = (folder / MANIFEST_NAME).exists(), (folder / STARTED_NAME).exists()
    files = [path.name for path in folder.iterdir() if path.name not in damage.NOT_OUTPUT]
    files = [name for name in files if not name.endswith(".tmp")]
    if not finished and not files:
        (folder / STARTED_NAME).unlink(missing_ok=True)  # it stopped before it made anything
        return None
    if not finished and not started:
        raise StaleError(
            f"{folder}: holds files that are not of this stage ({files[0]}, ...);"
            " name an empty or new output_dir"
        )
    found = compare(folder, identity)
    if found:
        raise StaleError(
            f"{folder}: holds output of other settings or inputs: {'; '.join(found)}."
            f" {another}, or run again with --replace to delete this output"
        )
    if not finished:
        return None
    if started:
        (folder / STARTED_NAME).unlink()  # it was killed after its manifest was there
    damage.check_sizes(folder)
    return Manifest.read(folder)


def _verify_inputs(config: StageConfig) -> None:
    for name, paths in config.inputs().items():
        for path in paths:
            damage.verify(path, config.unread(name), anew=config.verifies_anew)


def _mark_started(folder: Path, identity: Identity, now: float) -> float:
    path = folder / STARTED_NAME
    if path.exists():
        log.info("%s: continues what was interrupted: %s", identity.verb, folder)
        with suppress(ValueError, TypeError, KeyError):  # only the wall time hangs on it
            return float(json.loads(path.read_text())["started_at"])
    mark = {
        "verb": identity.verb,
        "fingerprint": identity.fingerprint,
        "settings": identity.settings,
        "inputs": identity.inputs,
        "revision": identity.revision,
        "version": longrun.__version__,
        "started_at": now,
    }
    write_text(path, json.dumps(mark, indent=2, sort_keys=True))
    return now


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if (folder / MANIFEST_NAME).exists() and not os.access(folder, os.W_OK):
        yield  # finished, and nobody is at work where nothing can be written
        return
    with open(folder / LOCK_NAME, "w") as lock:
        # Somebody who looks at the state of the stage holds the lock for an instant.
        deadline = time.monotonic() + float(os.environ.get(LOCK_VARIABLE, _LOCK_SECONDS))
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{folder}: another process is working in this folder; wait for it or end it"
                )
            time.sleep(_LOCK_SECONDS / 20)
        yield


def is_locked(folder: Path) -> bool:
    """Say whether a living process works in ``folder``."""
    if not (folder / LOCK_NAME).exists():
        return False
    with open(folder / LOCK_NAME) as lock:
        return not _try_lock(lock)


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def changed_inputs(
    old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Name every input whose content differs: ``input data changed (b.jsonl)``."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = dict(old.get(name, {})), dict(new.get(name, {}))
        if list(before.values()) == list(after.values()):
            continue
        changed = [path for path in after if after[path] not in before.values()]
        if not changed:
            changed = [path for path in before if before[path] not in after.values()]
        found.append(f"input {name} changed ({', '.join(changed[:3]) or 'order of files'})")
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
