"""The stage ``convert`` on models: the same model in another type, cut into other files.

One tensor at a time, so memory holds one output file. Positions are changed in ``config.json`` as
training does it; weights never depend on them. What the source folder lacks is not made up.
"""

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from longrun.checkpoint.huggingface import TensorFiles, write_weights
from longrun.checkpoint.model_folder import (
    CONFIG_NAME,
    copy_companions,
    edit_context,
    read_arch,
    read_config,
)
from longrun.checkpoint.weight_files import OUTPUT_MATRIX
from longrun.config.convert import ConvertConfig
from longrun.config.settings import MODEL_NAME
from longrun.errors import InputError
from longrun.formats.stages.atomic import atomic_folder
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import show_progress
from longrun.formats.stages.stage import open_stage


def run(config: ConvertConfig) -> Manifest:
    """Write ``model/``.

    Raises:
        InputError: the source is no model folder, a weight is missing, not finite, or too large for
            the type.
        ConfigError: its weights have several types and ``dtype`` names none.
        StaleError: the output folder holds output of other settings or inputs.
    """
    with open_stage("convert", config) as stage:
        if stage.finished is not None:
            return stage.finished
        target = stage.folder / MODEL_NAME
        if not target.exists():
            with atomic_folder(target) as aside:
                _convert(config, config.model, aside)
        files = list(target.glob("*.safetensors"))
        return stage.finish(counts={"files": len(files)})


def _convert(config: ConvertConfig, source: Path, target: Path) -> None:
    arch = read_arch(source, config.context)
    tensors = TensorFiles(source, arch)
    shapes = {name: tensors.shape(name) for name in tensors.names}
    if arch.tied and OUTPUT_MATRIX in shapes:
        tensors.check_tied()
        del shapes[OUTPUT_MATRIX]
    dtype = config.dtype or _only_dtype(tensors, source)
    total = sum(prod(shape) for shape in shapes.values())
    with show_progress("convert", total, "weights") as progress:

        def read(name: str) -> Tensor:
            progress.advance(prod(shapes[name]))
            return tensors.read(name)

        write_weights(
            target,
            shapes,
            read,
            getattr(torch, dtype),
            max_file_bytes=config.max_shard_mb * 1_000_000,
        )
    edited = edit_context(read_config(source), config.context, str(source / CONFIG_NAME))
    copy_companions(source, target, edited, dtype)


def _only_dtype(tensors: TensorFiles, source: Path) -> str:
    found = sorted({tensors.dtype(name) for name in tensors.names})
    if len(found) > 1 or found[0] not in ("float32", "bfloat16", "float16"):
        raise InputError.at(
            source, None, f"has weights of type {', '.join(found)}; name one with dtype="
        )
    return found[0]
