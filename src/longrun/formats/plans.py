"""Pack plans: which documents share a pack, in which order; lists of indices, never tokens.

A plan is two arrays: ``documents`` (indices in pack order) and ``starts`` (pack p holds
``documents[starts[p] : starts[p + 1]]``). Packs ``[4, 0] [2] [1, 3]`` are stored as::

    documents  4 0 2 1 3
    starts     0   2 3   5
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longrun.errors import InputError
from longrun.formats.documents import DocumentSet
from longrun.formats.json_text import JsonError, as_fields, decode_json
from longrun.formats.stages.arrays import write_array
from longrun.formats.stages.atomic import atomic_file, write_text
from longrun.formats.stages.damage import check_beneath
from longrun.formats.stages.manifest import MANIFEST_NAME, Manifest

PACKS_NAME = "packs.json"
TRAIN = "train"
VALIDATION = "validation"

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Whole documents side by side. N documents in P packs."""

    documents: Int64s
    """[N] indices into a ``DocumentSet``, in pack order."""
    starts: Int64s
    """[P + 1]."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Int64s:
        """Return the documents of pack ``index``.

        Raises:
            IndexError: it is outside ``0 .. len - 1``.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        return self.documents[self.starts[index] : self.starts[index + 1]]

    @property
    def document_counts(self) -> Int64s:
        """[P] documents of each pack."""
        counts: Int64s = np.diff(self.starts)
        return counts

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME.documents.npy`` and ``NAME.starts.npy`` into ``folder``."""
        for part, values in (("documents", self.documents), ("starts", self.starts)):
            with atomic_file(folder / f"{name}.{part}.npy") as file:
                write_array(file, values)

    @classmethod
    def load(cls, folder: Path, name: str) -> "PackPlan":
        """Read the plan ``name`` of ``folder``.

        Raises:
            InputError: it is absent or damaged.
        """
        paths = [folder / f"{name}.{part}.npy" for part in ("documents", "starts")]
        try:
            documents, starts = (np.load(path, allow_pickle=False) for path in paths)
        except (OSError, ValueError, EOFError) as error:
            raise InputError.at(
                folder, None, f"plan {name} cannot be read ({error}); run pack again"
            ) from None
        return cls(documents, starts)


def spread_packs(document_counts: Int64s, rng: np.random.Generator) -> Int64s:
    """Return [P] a random order of packs in which stretches of equal length have equal shares.

    ``document_counts`` [P] are the documents of each pack. The n packs with one count stand in
    random order, the r-th at a random place of the r-th of n equal strata of the epoch: so every
    batch has about as many documents, and a pack may come anywhere, with the same probability
    everywhere. Three packs of one document (a b c) and two of two (D E), with their places::

        one document    c .21   | a .40   | b .95        strata of 1/3
        two documents       E .37    |      D .62        strata of 1/2
        order           c E a D b
    """
    shuffled = rng.permutation(len(document_counts))
    by_count = shuffled[np.argsort(document_counts[shuffled], kind="stable")]
    own = document_counts[by_count]
    packs = np.bincount(document_counts)
    strata = np.arange(len(own)) - (np.cumsum(packs) - packs)[own]
    places = (strata + rng.random(len(own))) / packs[own]
    order: Int64s = by_count[np.argsort(places, kind="stable")]
    return order


@dataclass(frozen=True, slots=True, kw_only=True)
class PacksInfo:
    """``packs.json`` of a pack folder."""

    documents: str
    """Path of the prepared folder, relative to the pack folder."""
    pack_size: int
    num_epochs: int
    num_packs: list[int] = field(default_factory=list)
    """Per epoch."""
    fill: list[float] = field(default_factory=list)
    """Per epoch: tokens of its documents over the tokens its packs have room for."""
    cut_documents: bool = False
    """Whether documents longer than a pack are cut to its size."""

    def save(self, folder: Path) -> None:
        """Write ``packs.json`` into ``folder``."""
        write_text(folder / PACKS_NAME, json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "PacksInfo":
        """Read ``packs.json``.

        Raises:
            InputError: it is absent or damaged.
        """
        path = folder / PACKS_NAME
        if not path.is_file():
            raise InputError.at(folder, None, f"has no {PACKS_NAME}; name the output of pack")
        try:
            content = decode_json(path.read_bytes(), dict[str, Any])
            return cls(**as_fields(content, cls))
        except (JsonError, TypeError) as error:
            raise InputError.at(path, None, f"is damaged ({error}); run pack again") from None


def epoch_name(epoch: int) -> str:
    """Return the name of an epoch's plan.

    >>> epoch_name(2)
    'epoch-002'
    """
    return f"epoch-{epoch:03d}"


@dataclass(frozen=True, slots=True)
class PackSet:
    """A pack folder and the documents it speaks of."""

    folder: Path
    info: PacksInfo
    source: Path
    """The prepared folder."""
    training: DocumentSet
    validation: DocumentSet

    @classmethod
    def open(cls, folder: Path) -> "PackSet":
        """Open the output of ``pack`` and the documents beneath it.

        Raises:
            InputError: either is absent or damaged, or the documents were made anew.
        """
        info = PacksInfo.load(folder)
        if (folder / MANIFEST_NAME).is_file():
            check_beneath(folder, Manifest.read(folder))
        source = (folder / info.documents).resolve()
        if not source.is_dir():
            raise InputError.at(
                folder / PACKS_NAME, None, f"its documents are gone: {source}; run prepare again"
            )
        training, validation = (DocumentSet.open(source / split) for split in (TRAIN, VALIDATION))
        if info.cut_documents:
            training = training.cut_to(info.pack_size)
            validation = validation.cut_to(info.pack_size)
        return cls(folder, info, source, training, validation)

    @property
    def pack_size(self) -> int:
        """Tokens that a pack has room for."""
        return self.info.pack_size

    @property
    def num_epochs(self) -> int:
        """Number of different plans."""
        return self.info.num_epochs

    def plan(self, epoch: int) -> PackPlan:
        """Return the plan of ``epoch``; epochs beyond the last plan begin again with the first."""
        return PackPlan.load(self.folder, epoch_name(epoch % self.num_epochs))

    @property
    def validation_plan(self) -> PackPlan:
        """The plan of the held-out documents; without any it has no packs."""
        return PackPlan.load(self.folder, VALIDATION)
