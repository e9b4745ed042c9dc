"""Build a training from its settings: model, optimizers, schedule and data on one rank."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from longrun.checkpoint.huggingface import load_weights, write_weights
from longrun.checkpoint.model_folder import (
    CONFIG_NAME,
    edit_context,
    read_arch,
    read_config,
    write_companions,
)
from longrun.config.settings import FINAL_NAME
from longrun.config.training import EngineConfig, TrainConfig
from longrun.errors import ConfigError
from longrun.formats.plans import PackSet
from longrun.formats.stages.atomic import atomic_folder
from longrun.formats.text.conversation import CONVERSATION_NAME
from longrun.nn.attention import choose_backend
from longrun.nn.costs import ModelShape, attention_cost
from longrun.nn.decoder import Decoder
from longrun.nn.probe import Heads, time_backends
from longrun.nn.weighted_document import WeightedDocument
from longrun.optim.optimizers import build_optimizers
from longrun.optim.running_average import RunningAverage
from longrun.optim.schedules import build_schedule
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed, distribute, gather_parameter
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import Mesh, broadcast_object
from longrun.training.loop import Training
from longrun.training.readers import (
    HeldOutReader,
    PackReader,
    build_batches,
)

FINAL_AVERAGE_NAME = "final-average"
"""Beside ``final``: the running average of the weights, where one is kept."""
TOKENIZER_NAME = "tokenizer"
"""Folder of a prepare output that holds its tokenizer."""
log = logging.getLogger(__name__)


def build_training(config: TrainConfig, mesh: Mesh) -> Training:
    """Build everything that this rank needs; collective.

    Raises:
        ConfigError: a setting does not fit the machine.
        InputError: the model or the packs cannot be used.
    """
    packs = PackSet.open(config.packs)
    cost = attention_cost(ModelShape.of(read_arch(config.model, config.context)))
    reader = PackReader(packs, config.loss_weights, cost)
    batches = build_batches(config, packs)
    attention = choose_attention(config, mesh, reader.read(batches[0][0]))
    distributed = build_model(config, mesh, attention)
    num_steps = batches.num_steps(config.max_epochs, config.max_steps)
    parameters, decay = distributed.model.named_parameters(), config.optimizer.average_decay
    return Training(
        config=config,
        mesh=mesh,
        model=distributed,
        optimizers=build_optimizers(distributed.model, config.optimizer),
        schedule=build_schedule(config.optimizer, num_steps),
        batches=batches,
        num_steps=num_steps,
        average=None if decay is None else RunningAverage(parameters, decay),
        packs=reader,
        held_out=HeldOutReader(packs, config.loss_weights, cost),
    )


def choose_attention(config: EngineConfig, mesh: Mesh, pack: Sequence[WeightedDocument]) -> str:
    """Return the attention backend; several that can run are timed on ``pack``; collective.

    All ranks take what rank 0 measured.

    Raises:
        ConfigError: the backend that was asked for cannot run here.
    """
    arch = read_arch(config.model, config.context)
    dtype: torch.dtype = getattr(torch, config.dtype)
    layout = lay_out(pack, mesh)
    lengths = list(zip(layout.lengths, layout.key_lengths, strict=True))
    cuts = mesh.tensor_size
    heads = Heads(arch.num_heads // cuts, arch.num_kv_heads // cuts, arch.head_dim)
    return choose_backend(
        config.attention,
        mesh.device,
        dtype,
        arch.head_dim,
        shares=mesh.context_size > 1,
        measure=lambda names: broadcast_object(
            time_backends(names, lengths, heads, dtype, mesh.device)
        ),
    )


def build_model(config: EngineConfig, mesh: Mesh, attention: str) -> Distributed:
    """Build the float32 model over all ranks; each reads the part of the weights that it stores.

    Raises:
        InputError: the model folder cannot be used.
    """
    arch = read_arch(config.model, config.context)
    dtype: torch.dtype = getattr(torch, config.dtype)
    with torch.device("meta"):
        model = Decoder(arch, backend=attention, recompute=config.recompute, compute_dtype=dtype)
    layout = Layout.of(config)
    distributed = distribute(model, mesh, layout, compiled=config.compile)
    load_weights(config.model, model)
    log.info("model: %s parameters from %s", _count(model), config.model)
    if mesh.size > 1:
        log.info("layout: %s", layout)
    return distributed


def check_devices(num_processes: int) -> None:
    """Check that every process has a GPU of its own, if there are GPUs.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    available = torch.cuda.device_count()
    if available and num_processes > available:
        raise ConfigError(
            f"num_processes: {num_processes} but this machine shows {available} GPUs; lower it"
        )


def export_final(training: Training) -> None:
    """Write ``final/``, and ``final-average/`` if an average is kept; collective.

    Hugging Face folders; one that is there is left alone. Weights are rounded once to the compute
    type: those are the very numbers that the forward passes multiplied with. One whole tensor
    exists at a time beside the file that is being filled.
    """
    _export(training, FINAL_NAME)
    if training.average is not None:
        with training.average.in_place_of_the_weights():
            _export(training, FINAL_AVERAGE_NAME)


def _export(training: Training, name: str) -> None:
    folder = training.config.output_dir / name
    if folder.exists():
        return
    parameters = dict(training.model.model.named_parameters())
    if training.mesh.rank == 0:
        with atomic_folder(folder) as aside:
            _write_model(training.config, aside, parameters)
        log.info("train: exported %s", folder)
    else:
        for parameter in parameters.values():
            gather_parameter(parameter)


def _write_model(config: TrainConfig, folder: Path, parameters: Mapping[str, torch.Tensor]) -> None:
    """Write the model folder; the other ranks gather the parameters in the same order."""
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    dtype: torch.dtype = getattr(torch, config.dtype)
    write_weights(folder, shapes, lambda name: gather_parameter(parameters[name]), dtype)
    source = PackSet.open(config.packs).source
    write_companions(
        folder,
        edit_context(read_config(config.model), config.context, str(config.model / CONFIG_NAME)),
        dtype=config.dtype,
        tokenizer=source / TOKENIZER_NAME,
        conversation=source / CONVERSATION_NAME,
    )


def counts_of(training: Training) -> dict[str, object]:
    """Return what every rank must agree on before training."""
    first = training.batches[0]
    weights = [float(w.sum()) for pack in first for _, w in training.packs.read(pack)]
    return {
        "settings": json.dumps(training.config.identity(), sort_keys=True),
        "steps": training.num_steps,
        "packs": training.batches.packs_per_epoch,
        "first batch": first,
        "weight of the first batch": sum(weights),
    }


def _count(model: Decoder) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"
