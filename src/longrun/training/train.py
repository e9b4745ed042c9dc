"""The training stage: check everything that needs no torch, start the workers, finish.

A wrong setting or folder is refused here within a second, before any worker has started.
"""

import logging
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from longrun.checkpoint.checksums import known_checksums
from longrun.checkpoint.model_folder import (
    check_same_tokenizer,
    check_tokenizer_fits,
    read_arch,
)
from longrun.checkpoint.weight_files import check_weights
from longrun.config.training import EngineConfig, TrainConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.plans import PackSet
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import CONFIG_NAME, Manifest
from longrun.formats.stages.stage import open_stage
from longrun.optim.schedules import build_schedule
from longrun.parallel.layouts import Layout, check_layout
from longrun.training.batches import PackLine
from longrun.training.metrics import read_metrics
from longrun.training.nodes import AlreadyOverError, Peers, join_nodes, raise_outcome
from longrun.training.processes import run_workers
from longrun.training.readers import build_batches
from longrun.training.trackers import check_trackers

log = logging.getLogger(__name__)
_SHOWN_PACKS = 8


def run(config: TrainConfig) -> Manifest:
    """Train to the end, or continue an interrupted training; see ``TrainConfig``.

    Raises:
        ConfigError: two settings do not fit each other, the packs or the machine.
        InputError: the packs or the model cannot be used, or do not belong together.
        VerificationError: a law of packing does not hold here; nothing was trained.
        LaunchError: a worker died, or another node is lost.
        StoppedError: a signal asked for a stop and everything is saved.
        LongrunError: loss or gradient is not finite.
    """
    with join_nodes(config) as peers:
        return _lead(config, peers) if peers.leads else follow("train", config, peers)


def _lead(config: TrainConfig, peers: Peers) -> Manifest:
    """Own the output folder: node 0, or the only one."""
    with open_stage("train", config) as stage:
        if stage.finished is not None:
            return stage.finished
        check_trackers(config)
        batches = check(config)
        _say_what_is_left_out(config, batches)
        raise_outcome(run_workers("train", stage.folder / CONFIG_NAME, config.num_processes, peers))
        steps = batches.num_steps(config.max_epochs, config.max_steps)
        counts = _counts(config.output_dir) | {"steps": steps}
        checksums = known_checksums(config.output_dir)
        ledger = _ledger(config, batches, steps)
        return stage.finish(counts=counts, ledger=ledger, checksums=checksums)


def follow(verb: str, config: EngineConfig, peers: Peers) -> Manifest:
    """Start the workers of another node, and end as node 0 says."""
    with tempfile.TemporaryDirectory(prefix="longrun-") as folder, suppress(AlreadyOverError):
        config.save(Path(folder, CONFIG_NAME))
        run_workers(verb, Path(folder, CONFIG_NAME), config.num_processes, peers)
    raise_outcome(peers.hear_outcome())
    return Manifest.read(config.output_dir, verb)


def check(config: TrainConfig) -> PackLine:
    """Check the settings against packs and model; return the batches of the training.

    Raises:
        ConfigError: see ``run``.
        InputError: see ``run``.
    """
    batches = build_batches(config, check_engine("train", config))
    _check_batches(config, batches)
    return batches


def check_engine(verb: str, config: EngineConfig) -> PackSet:
    """Check that model, packs and layout belong together; return the packs.

    Raises:
        ConfigError: an illegal layout, or a document longer than the model's positions.
        InputError: the model or the packs cannot be used, or have other tokenizers.
    """
    packs = PackSet.open(config.packs)
    arch = read_arch(config.model, config.context)
    check_weights(config.model, arch)
    check_layout(Layout.of(config), arch, verb)
    tokenizer = packs.source / "tokenizer"
    check_same_tokenizer(tokenizer, config.model)
    check_tokenizer_fits(tokenizer, arch, config.model)
    _check_lengths(config, packs, arch.max_positions)
    if not len(packs.plan(0)):
        raise InputError.at(config.packs, None, "holds no packs; prepare more records")
    return packs


def _check_lengths(config: EngineConfig, packs: PackSet, max_positions: int) -> None:
    """Check the longest document in any pack; positions begin again with every document."""
    plans = [packs.plan(epoch) for epoch in range(packs.num_epochs)]
    used = np.concatenate([packs.training.lengths[plan.documents] for plan in plans])
    held_out = packs.validation.lengths[packs.validation_plan.documents]
    longest = int(max(used.max(initial=0), held_out.max(initial=0)))
    if longest > max_positions:
        raise ConfigError(
            f"packs: {config.packs} (pack_size {packs.pack_size}) holds a document of"
            f" {longest} tokens, above max_position_embeddings {max_positions} of {config.model};"
            " pack with a smaller pack_size or use a model with more positions"
        )


def _check_batches(config: TrainConfig, batches: PackLine) -> None:
    name, wanted = "global_batch_size", f"{config.global_batch_size} packs"
    if config.global_batch_size is None:
        name, wanted = "global_batch_tokens", f"{config.global_batch_tokens} supervised tokens"
    steps = batches.num_steps(config.max_epochs, config.max_steps)
    if not steps:
        raise ConfigError(
            f"train.{name}: {wanted} are more than {config.max_epochs:g} passes over"
            f" {batches.size(0)} packs give; lower it or raise max_epochs"
        )
    packs = batches.start(steps) / steps
    data_ranks = Layout.of(config).data
    if data_ranks > packs:
        raise ConfigError(
            f"train.num_processes: {data_ranks} data-parallel processes are more than the"
            f" {packs:.3g} packs of {name} {wanted.split()[0]}: one would have no pack; use fewer,"
            " or raise context_parallel"
        )
    late = [step for step in config.keep_steps if step > steps]
    if late:
        raise ConfigError(
            f"train.keep_steps: {late[0]} is after the last step {steps}; leave it out or train"
            " longer"
        )
    build_schedule(config.optimizer, steps)


def _say_what_is_left_out(config: TrainConfig, batches: PackLine) -> None:
    """Name the packs after the last whole batch, unless ``max_steps`` ends before them."""
    steps = batches.num_steps(config.max_epochs, None)
    left = batches.left_out(steps)
    if (config.max_steps is not None and config.max_steps < steps) or not left:
        return
    shown = ", ".join(str(pack.pack) for pack in left[:_SHOWN_PACKS])
    more = f" and {len(left) - _SHOWN_PACKS} more" if len(left) > _SHOWN_PACKS else ""
    log.info(
        "train: %d packs of the last pass are left out, because max_epochs %g ends before them"
        " or they fill no batch: packs %s%s of plan %d",
        *(len(left), config.max_epochs, shown, more),
        left[0].epoch % len(batches.document_counts),
    )


def _counts(run_folder: Path) -> dict[str, float]:
    lines = read_metrics(run_folder)
    steps = [line for line in lines if "loss" in line]
    trained = [line for line in steps if "skipped" not in line]
    validated = [line for line in lines if line.get("validation_loss") is not None]
    counts: dict[str, float] = {
        "tokens": sum(line["tokens"] for line in trained),
        "supervised_tokens": sum(line["supervised_tokens"] for line in trained),
        "epochs": steps[-1]["epoch"],
    }
    if trained:
        counts["loss"] = trained[-1]["loss"]
    if len(trained) < len(steps):
        counts["skipped_steps"] = len(steps) - len(trained)
    if validated:
        counts["validation_loss"] = validated[-1]["validation_loss"]
    return counts


def _ledger(config: TrainConfig, batches: PackLine, steps: int) -> Ledger:
    """Book the packs of every pass that was begun: trained, or after the last step."""
    ledger = Ledger()
    passes = int(np.ceil(batches.epochs_before(steps)))
    ledger.take(sum(batches.size(epoch) for epoch in range(passes)))
    ledger.keep(batches.start(steps))
    left = ledger.records_in - ledger.kept
    if left:
        ledger.drop("after the last step", left)
    return ledger
