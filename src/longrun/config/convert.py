"""The settings of ``convert`` and ``convert_packs``: the same in another form."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from longrun.config.settings import StageConfig, model_source, source
from longrun.config.training import ContextEdit
from longrun.config.values import Mode

_BELONGS = {"epoch": "packs", "like": "arrays", "mode": "arrays"}
"""Setting -> what it has an effect on."""


class ConvertConfig(StageConfig):
    """Write a model anew: another type, smaller files, other positions."""

    output_revision: ClassVar[int] = 2

    model: Path = model_source()
    """Hugging Face model folder to write anew as ``model``."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the weights; null: as they are."""
    max_shard_mb: Annotated[int, Field(ge=1)] = 4096
    """A larger model becomes several files of at most so many 10^6 bytes."""
    context: ContextEdit = ContextEdit()
    """Changes of its positions."""


class ConvertPacksConfig(StageConfig):
    """Bring packs into NeMo's three padded .npy arrays, or such arrays into packs."""

    packs: Path | None = source(None)
    """Pack folder to write as arrays."""
    arrays: Path | None = source(None)
    """Arrays to read, by the name without ``.input_ids``: ``packed_32768_seed0.npy``."""
    like: Path | None = source(None, unread=["train/*", "validation/*", "parts/*"])
    """With ``arrays``: prepared folder whose tokenizer and conversation made them."""
    pad_id: NonNegativeInt
    """Token that pads rows of arrays; never a target. Qwen2.5: 151643."""
    context_parallel: PositiveInt = 1
    """Context-parallel ranks that rows of arrays are padded for; 1: rows are not padded."""
    epoch: NonNegativeInt = 0
    """With ``packs``: the plan to write; it also stands in the name of the files."""
    mode: Mode = "cot"
    """With ``arrays``: the mode that their documents are said to have."""

    @model_validator(mode="after")
    def _one_artefact_with_its_settings(self) -> "ConvertPacksConfig":
        named = [name for name in ("packs", "arrays") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError("set one of packs (to write arrays) and arrays (to read them)")
        for name, other in _BELONGS.items():
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and other != named[0]:
                raise ValueError(f"{name} belongs to {other}, it has no effect on {named[0]}")
        if self.arrays is not None and self.like is None:
            raise ValueError("arrays and like go together: arrays do not hold their tokenizer")
        return self

    def inputs(self) -> dict[str, list[Path]]:
        """Name the three files that ``arrays`` stands for."""
        found = super().inputs()
        if self.arrays is not None:
            stem = self.arrays.name.removesuffix(".npy")
            found["arrays"] = sorted(self.arrays.parent.glob(f"{stem}.*.npy"))
        return found
