"""What can be known to fail before a job waits for its turn: from settings and what is on disk.

The stages check the same when they start, with more at hand. Here nothing is opened but the
description of a model.
"""

import importlib.util
import logging
from collections.abc import Iterable

from longrun.config.cluster import Cluster
from longrun.config.recipe import Recipe, StagePlan
from longrun.config.settings import find_model
from longrun.config.training import AverageConfig, EngineConfig, TrainConfig
from longrun.errors import ConfigError, InputError
from longrun.parallel.layouts import Layout, check_layout
from longrun.plan.models import find_model as find_architecture

log = logging.getLogger(__name__)


def foresee(cluster: Cluster, recipe: Recipe, stages: Iterable[StagePlan]) -> None:
    """Check what ``stages`` ask for against each other and against models that are there.

    Raises:
        ConfigError: a stage would fail; its setting and the bound are named.
        InputError: a model is there and cannot be used.
    """
    trained = {stage.config.output_dir: stage for stage in recipe.stages}
    for stage in stages:
        config = stage.config
        if isinstance(config, EngineConfig):
            _check_engine(stage.name, config)
        if isinstance(config, TrainConfig):
            _check_training(stage.name, config)
            if cluster.python is None and cluster.image(_container_of(recipe, stage)) is None:
                _check_packages(stage.name, config)
        if isinstance(config, AverageConfig) and config.checkpoints in trained:
            _check_steps(stage.name, config, trained[config.checkpoints])


def missing_inputs(recipe: Recipe, stages: Iterable[StagePlan]) -> list[str]:
    """Return what ``stages`` read, no stage of ``recipe`` makes, and is not there."""
    made = [stage.config.output_dir.absolute() for stage in recipe.stages]
    found = []
    for stage in stages:
        for name, paths in stage.config.inputs().items():
            found += [
                f"stage {stage.name}: {name}: {path} does not exist"
                for path in paths
                if not path.exists() and not any(path.absolute().is_relative_to(p) for p in made)
            ]
    return found


def check_inputs(recipe: Recipe, stages: Iterable[StagePlan]) -> None:
    """Check that everything is there that ``stages`` read and that no stage makes.

    Raises:
        InputError: something is not.
    """
    if found := missing_inputs(recipe, stages):
        raise InputError(
            f"{found[0]}; correct it, or name the experiment that makes it: --run_after NAME"
        )


def _check_engine(name: str, config: EngineConfig) -> None:
    layout, folder = Layout.of(config), find_model(config.model)
    if (folder / "config.json").is_file():
        check_layout(layout, find_architecture(str(folder)), f"stage {name}")
    elif layout.num_ranks % (layout.tensor * layout.context):
        raise ConfigError(
            f"stage {name}: tensor_parallel {layout.tensor} x context_parallel {layout.context} do"
            f" not divide {layout.num_ranks} processes (num_nodes x num_processes)"
        )


def _check_training(name: str, config: TrainConfig) -> None:
    data, packs, steps = Layout.of(config).data, config.global_batch_size, config.max_steps
    if packs is not None and data > packs:
        raise ConfigError(
            f"stage {name}: {data} data-parallel processes are more than the {packs} packs of"
            " global_batch_size: one would have no pack; use fewer, or raise context_parallel"
        )
    if steps is None:
        return
    if config.optimizer.warmup_steps >= steps:
        raise ConfigError(
            f"stage {name}: optimizer.warmup_steps {config.optimizer.warmup_steps} is not below"
            f" max_steps {steps}; lower it or train longer"
        )
    if late := [step for step in config.keep_steps if step > steps]:
        raise ConfigError(
            f"stage {name}: keep_steps: {late[0]} is after max_steps {steps}; leave it out or train"
            " longer"
        )


def _check_packages(name: str, config: TrainConfig) -> None:
    wanted = {"tensorboard": config.tensorboard, "wandb": config.wandb is not None}
    for package, wants in wanted.items():
        if wants and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"stage {name}: {package}: the package is not installed; python -m pip install"
                f" {package}"
            )


def _check_steps(name: str, config: AverageConfig, trained: StagePlan) -> None:
    steps = getattr(trained.config, "max_steps", None)
    if steps is None or isinstance(config.steps, str):
        return
    if late := [step for step in config.steps if step > steps]:
        raise ConfigError(
            f"stage {name}: steps: {late[0]} is after the last step of {trained.name}, whose"
            f" max_steps is {steps}; leave it out or train longer"
        )


def _container_of(recipe: Recipe, stage: StagePlan) -> str | None:
    job = recipe.jobs.get(stage.name)
    return None if job is None else job.container


def say_missing(recipe: Recipe, stages: Iterable[StagePlan]) -> None:
    """Say in a dry run what a run would be refused for, as it may be seen from elsewhere only."""
    for found in missing_inputs(recipe, stages):
        log.warning("%s here; a run would be refused", found)
