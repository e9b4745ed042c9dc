"""The settings of ``convert``: one artefact in, the same in another form out."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from longrun.config.settings import StageConfig, model_source, source
from longrun.config.training import ContextEdit
from longrun.config.values import Mode

_BELONGS = {
    "model": ("dtype", "max_shard_mb", "context"),
    "packs": ("pad_id", "context_parallel", "epoch"),
    "arrays": ("pad_id", "context_parallel", "like", "mode"),
}
"""What is converted -> the settings that have an effect on it."""


class ConvertConfig(StageConfig):
    """Bring a model, packs, or NeMo's three padded .npy arrays of packs into another form."""

    output_revision: ClassVar[int] = 2

    model: Path | None = model_source(None)
    """Hugging Face model folder to write anew as ``model``."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """With ``model``: type of the weights; null: as they are."""
    max_shard_mb: Annotated[int, Field(ge=1)] = 4096
    """With ``model``: a larger model becomes several files of at most so many 10^6 bytes."""
    context: ContextEdit = ContextEdit()
    """With ``model``: changes of its positions."""
    packs: Path | None = source(None)
    """Pack folder to write as arrays."""
    arrays: Path | None = source(None)
    """Arrays to read, by the name without ``.input_ids``: ``packed_32768_seed0.npy``."""
    like: Path | None = source(None)
    """With ``arrays``: prepared folder whose tokenizer and conversation made them."""
    pad_id: NonNegativeInt | None = None
    """Token that pads rows of arrays; never a target. Qwen2.5: 151643."""
    context_parallel: PositiveInt = 1
    """Context-parallel ranks that rows of arrays are padded for; 1: rows are not padded."""
    epoch: NonNegativeInt = 0
    """With ``packs``: the plan to write; it also stands in the name of the files."""
    mode: Mode = "cot"
    """With ``arrays``: the mode that their documents are said to have."""

    @model_validator(mode="after")
    def _one_artefact_with_its_settings(self) -> "ConvertConfig":
        named = [name for name in _BELONGS if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                "set one of model (to write it anew), packs (to write arrays), arrays (to read"
                " them)"
            )
        places = [(name, other) for other, names in _BELONGS.items() for name in names]
        for name, other in places:
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and name not in _BELONGS[named[0]]:
                raise ValueError(f"{name} belongs to {other}, it has no effect on {named[0]}")
        if self.model is None and self.pad_id is None:
            raise ValueError("pad_id is required with packs and arrays")
        if self.arrays is not None and self.like is None:
            raise ValueError("arrays and like go together: arrays do not hold their tokenizer")
        return self

    @property
    def padding(self) -> int:
        """The token that pads rows.

        Raises:
            ValueError: a model is converted, which has none.
        """
        if self.pad_id is None:
            raise ValueError("a model has no rows to pad")
        return self.pad_id

    def inputs(self) -> dict[str, list[Path]]:
        """Name the three files that ``arrays`` stands for."""
        found = super().inputs()
        if self.arrays is not None:
            stem = self.arrays.name.removesuffix(".npy")
            found["arrays"] = sorted(self.arrays.parent.glob(f"{stem}.*.npy"))
        return found
