"""The training stage: check everything that needs no torch, start the workers, finish.

A wrong setting or folder is refused here within a second, before any worker has started.
"""

from pathlib import Path

import numpy as np

from longrun.checkpoint.model_folder import (
    check_same_tokenizer,
    check_tokenizer_fits,
    read_arch,
)
from longrun.config.stages import TrainConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.ledger import Ledger
from longrun.formats.manifest import Manifest
from longrun.formats.plans import PackSet
from longrun.formats.stage import open_stage
from longrun.optim.schedules import build_schedule
from longrun.parallel.layouts import Layout, check_layout
from longrun.train.batches import Batches
from longrun.train.metrics import read_metrics
from longrun.train.processes import run_workers


def run(config: TrainConfig) -> Manifest:
    """Train to the end, or continue an interrupted training; see ``TrainConfig``.

    Raises:
        ConfigError: two settings do not fit each other, the packs or the machine.
        InputError: the packs or the model cannot be used, or do not belong together.
        VerificationError: a law of packing does not hold here; nothing was trained.
        LaunchError: a worker died, or a signal asked for a stop and everything is saved.
        LongrunError: loss or gradient is not finite.
    """
    with open_stage("train", config) as stage:
        if stage.finished is not None:
            return stage.finished
        batches = check(config)
        run_workers(stage.folder / "config.yaml", config.num_processes)
        steps = batches.num_steps(config.max_epochs, config.max_steps)
        counts = _counts(config.output_dir) | {"steps": steps}
        return stage.finish(counts=counts, ledger=_ledger(config, batches, steps))


def check(config: TrainConfig) -> Batches:
    """Check the settings against packs and model; return the batches of the training.

    Raises:
        ConfigError: see ``run``.
        InputError: see ``run``.
    """
    packs = PackSet.open(config.packs)
    arch = read_arch(config.model)
    check_layout(Layout.of(config), arch, "train")
    tokenizer = packs.source / "tokenizer"
    check_same_tokenizer(tokenizer, config.model)
    check_tokenizer_fits(tokenizer, arch, config.model)
    _check_lengths(config, packs, arch.max_positions)
    counts = tuple(len(packs.plan(epoch)) for epoch in range(packs.num_epochs))
    batches = Batches(counts, config.global_batch_size, config.seed)
    _check_batches(config, batches)
    return batches


def _check_lengths(config: TrainConfig, packs: PackSet, max_positions: int) -> None:
    """Check the longest document in any pack; positions begin again with every document."""
    plans = [packs.plan(epoch) for epoch in range(packs.num_epochs)]
    used = np.concatenate([packs.training.lengths[plan.documents] for plan in plans])
    held_out = packs.validation.lengths[packs.validation_plan.documents]
    longest = int(max(used.max(initial=0), held_out.max(initial=0)))
    if longest > max_positions:
        raise ConfigError(
            f"train.packs: {config.packs} (pack_size {packs.pack_size}) holds a document of"
            f" {longest} tokens, above max_position_embeddings {max_positions} of {config.model};"
            " pack with a smaller pack_size or use a model with more positions"
        )


def _check_batches(config: TrainConfig, batches: Batches) -> None:
    if not batches.size(0):
        raise InputError.at(config.packs, None, "holds no packs; prepare more records")
    data_ranks = Layout.of(config).data
    if data_ranks > config.global_batch_size:
        raise ConfigError(
            f"train.num_processes: {data_ranks} data-parallel processes are more than the"
            f" global_batch_size of {config.global_batch_size} packs: one would have no pack; use"
            " fewer, or raise context_parallel"
        )
    steps = batches.num_steps(config.max_epochs, config.max_steps)
    if not steps:
        raise ConfigError(
            f"train.global_batch_size: {config.global_batch_size} packs are more than"
            f" {config.max_epochs:g} passes over {batches.size(0)} packs give; lower it or raise"
            " max_epochs"
        )
    build_schedule(config.optimizer, steps)


def _counts(run_folder: Path) -> dict[str, float]:
    lines = read_metrics(run_folder)
    trained = [line for line in lines if "loss" in line]
    validated = [line for line in lines if line.get("validation_loss") is not None]
    counts: dict[str, float] = {
        "tokens": sum(line["tokens"] for line in trained),
        "supervised_tokens": sum(line["supervised_tokens"] for line in trained),
        "epochs": trained[-1]["epoch"],
        "loss": trained[-1]["loss"],
    }
    if validated:
        counts["validation_loss"] = validated[-1]["validation_loss"]
    return counts


def _ledger(config: TrainConfig, batches: Batches, steps: int) -> Ledger:
    """Book the packs of every pass that was begun: trained, or after the last step."""
    ledger = Ledger()
    passes = int(np.ceil(batches.epochs_before(steps)))
    ledger.take(sum(batches.size(epoch) for epoch in range(passes)))
    ledger.keep(steps * config.global_batch_size)
    left = ledger.records_in - ledger.kept
    if left:
        ledger.drop("after the last step", left)
    return ledger
