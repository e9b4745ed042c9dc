"""Build a training from its settings: model, optimizers, schedule and data on one rank."""

import json
import logging
from pathlib import Path

import torch

from longrun.checkpoint.huggingface import load_weights, write_weights
from longrun.checkpoint.model_folder import read_arch, read_config, write_companions
from longrun.config.stages import TrainConfig
from longrun.errors import ConfigError
from longrun.formats.atomic import atomic_folder
from longrun.formats.conversation import CONVERSATION_NAME
from longrun.formats.plans import PackSet
from longrun.nn.attention import choose_backend
from longrun.nn.costs import ModelShape, attention_share
from longrun.nn.decoder import Decoder
from longrun.optim.optimizers import build_optimizers
from longrun.optim.schedules import build_schedule
from longrun.parallel.data import distribute
from longrun.parallel.mesh import Mesh
from longrun.train.batches import Batches
from longrun.train.loop import Training
from longrun.train.supervision import HeldOutReader, PackReader

FINAL_NAME = "final"
TOKENIZER_NAME = "tokenizer"
"""Folder of a prepare output that holds its tokenizer."""
log = logging.getLogger(__name__)


def build_training(config: TrainConfig, mesh: Mesh) -> Training:
    """Build everything that this rank needs; collective.

    Raises:
        ConfigError: a setting does not fit the machine.
        InputError: the model or the packs cannot be used.
    """
    model = build_model(config, mesh)
    share = attention_share(ModelShape.of(model.arch))
    packs = PackSet.open(config.packs)
    reader = PackReader(packs, config.loss_weights, share)
    batches = Batches(
        reader.packs_per_epoch,
        config.global_batch_size,
        config.seed,
        config.balance_window,
        tuple(reader.costs()) if config.balance_window > 1 else (),
    )
    num_steps = batches.num_steps(config.max_epochs, config.max_steps)
    distributed = distribute(model, mesh, config.sharding)
    return Training(
        config=config,
        mesh=mesh,
        model=distributed,
        optimizers=build_optimizers(distributed.model, config.optimizer),
        schedule=build_schedule(config.optimizer, num_steps),
        batches=batches,
        num_steps=num_steps,
        packs=reader,
        held_out=HeldOutReader(packs, config.loss_weights, share),
    )


def build_model(config: TrainConfig, mesh: Mesh) -> Decoder:
    """Build the float32 model; rank 0 fills it, and distributing it gives its weights to the rest.

    Raises:
        ConfigError: the attention backend cannot run here.
        InputError: the model folder cannot be used.
    """
    arch = read_arch(config.model)
    dtype: torch.dtype = getattr(torch, config.dtype)
    backend = choose_backend(config.attention, mesh.device, dtype, arch.head_dim)
    model = Decoder(arch, backend=backend, recompute=config.recompute, compute_dtype=dtype)
    if mesh.rank == 0:
        load_weights(config.model, model)
        log.info("train: %s parameters from %s", _count(model), config.model)
    return model


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
    """Write ``final/``, a Hugging Face folder, unless it is there; collective.

    Weights are rounded once to the compute type: those are the very numbers that the forward
    passes multiplied with.
    """
    folder = training.config.output_dir / FINAL_NAME
    if folder.exists():
        return
    weights = training.model.full_state_dict()
    if training.mesh.rank == 0:
        with atomic_folder(folder) as aside:
            _write_model(training.config, aside, weights)
        log.info("train: exported %s", folder)


def _write_model(config: TrainConfig, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    write_weights(folder, shapes, weights.__getitem__, getattr(torch, config.dtype))
    source = PackSet.open(config.packs).source
    write_companions(
        folder,
        read_config(config.model),
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
