"""From stages of a recipe to jobs: the command of each, and what it asks of the cluster."""

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from longrun.config.cluster import Cluster, JobSettings
from longrun.config.recipe import Recipe, StagePlan
from longrun.config.settings import StageConfig
from longrun.config.stages import STAGES
from longrun.config.values import is_prompt_file
from longrun.errors import ConfigError, LongrunError
from longrun.formats.processes import available_cores
from longrun.launch import slurm
from longrun.launch.containers import check_covered, find_inside, on_host
from longrun.launch.experiment import Experiment
from longrun.launch.jobs import SETTINGS_NAME, Job, Resources
from longrun.launch.submit import CodePlace

GPU_VERBS = ("train", "generate")
"""Stages that compute on GPUs where a cluster has them."""
_IDLE = {
    "partition": "this machine has none",
    "time_limit": "no job ends by time",
    "time_min": "no job ends by time",
    "num_training_jobs": "there is no time limit",
}
"""Options of a cluster that do nothing on this machine, and why."""


def build_stage_job(
    cluster: Cluster,
    experiment: Experiment,
    recipe: Recipe,
    stage: StagePlan,
    *,
    code: CodePlace | None,
    after: Iterable[Path] = (),
) -> Job:
    """Build the job of ``stage``; ``after``: folders of the jobs it waits for.

    ``code`` is None for a job that starts at once, from the code that is installed.

    Raises:
        ConfigError: the stage asks for more than a node has.
    """
    folder = experiment.job_folder(stage.name)
    start_in = code.start_in if code else Path.cwd()
    settings = recipe.jobs.get(stage.name, JobSettings())
    image = cluster.image(settings.container)
    words = [interpreter(cluster, image), "-m", "longrun", stage.verb, str(folder / SETTINGS_NAME)]
    return Job(
        name=stage.name,
        folder=folder,
        command=f"exec {shlex.join(words)}",
        start_in=(find_inside(cluster, start_in) or folder) if image else start_in,
        after=tuple(after),
        resources=_resources(cluster, stage, settings),
        resumable=True,
        image=image,
        env=code.variables() if code else {},
    )


def log_into(cluster: Cluster, job: Job, log_dir: Path | None) -> Job:
    """Return ``job`` with its log in ``log_dir``, a path as inside containers; None: unchanged."""
    if log_dir is None:
        return job
    return replace(job, log=on_host(cluster, log_dir.absolute()) / f"{job.name}.log")


def place_of(cluster: Cluster, recipe: Recipe) -> tuple[Path, str]:
    """Return the folder in which the recipe's run is found by name, and that name.

    Where no cluster file says otherwise, the run is found where its folder lies.
    """
    if "job_dir" in cluster.model_fields_set:
        return cluster.job_dir, recipe.name
    return recipe.output_dir.parent, recipe.output_dir.name


def interpreter(cluster: Cluster, image: str | None) -> str:
    """Return the Python of jobs: the cluster file's, an image's own, or this one."""
    return cluster.python or ("python" if image else sys.executable)


def with_absolute_paths(stage: StagePlan) -> StagePlan:
    """Return ``stage`` with absolute paths, for jobs that start elsewhere."""
    return _with_paths(stage, Path.absolute)


def as_inside(cluster: Cluster, stage: StagePlan) -> StagePlan:
    """Return ``stage`` with the paths that its files have inside containers.

    Raises:
        ConfigError: one is in no mount.
    """
    absolute = with_absolute_paths(stage)
    read = [path for paths in absolute.config.inputs().values() for path in paths]
    check_covered(cluster, f"stage {stage.name}", [absolute.config.output_dir, *read])
    return _with_paths(absolute, lambda path: find_inside(cluster, path) or path)


def seen_from_host(cluster: Cluster, recipe: Recipe) -> Recipe:
    """Return ``recipe`` with the paths that its folders, named as inside containers, have here."""
    if cluster.container_runtime == "none":
        return recipe

    def translate(path: Path) -> Path:
        return on_host(cluster, path)

    stages = tuple(_with_paths(stage, translate) for stage in recipe.stages)
    output_dir = translate(recipe.output_dir)
    settings = {stage.name: stage.config.model_dump(mode="json") for stage in stages}
    resolved = {
        **recipe.resolved,
        "output_dir": str(output_dir),
        "stages": {
            name: {"verb": section["verb"], **settings[name]}
            for name, section in recipe.resolved["stages"].items()
        },
    }
    return replace(recipe, stages=stages, output_dir=output_dir, resolved=resolved)


def _with_paths(stage: StagePlan, change: Callable[[Path], Path]) -> StagePlan:
    values = _change_paths(stage.config.model_dump(), change)
    return replace(stage, config=STAGES[stage.verb].parse(values, stage.name))


def _change_paths(value: Any, change: Callable[[Path], Path]) -> Any:
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, str) and is_prompt_file(value):
        return str(change(Path(value)))
    if isinstance(value, dict):
        return {key: _change_paths(inside, change) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_change_paths(inside, change) for inside in value]
    return value


def cores_of(config: StageConfig, total: int) -> int:
    """Return how many of ``total`` cores a stage keeps busy; those of no known need: one."""
    processes = getattr(config, "num_processes", None)
    workers = getattr(config, "num_workers", None)
    wanted = 1
    if processes is not None:
        wanted = processes * getattr(config, "num_nodes", 1)
    elif workers is not None:
        wanted = workers or total
    return min(total, wanted)


def gpus_of(stage: StagePlan, settings: JobSettings, available: int | None) -> int:
    """Return the GPUs of each node that a stage asks for.

    ``available``: those of a node; None: not known, so that there are enough.
    """
    if settings.num_gpus is not None:
        return settings.num_gpus
    if available == 0 or stage.verb not in GPU_VERBS:
        return 0
    return int(getattr(stage.config, "num_processes", 1))


def gpus_of_nodes(cluster: Cluster, partition: str | None) -> int | None:
    """Return the GPUs of a node: what the cluster file says, or Slurm; None: nobody knows.

    A partition may be a list, of which a job takes any.
    """
    if cluster.gpus_per_node is not None or cluster.executor == "local":
        return cluster.gpus_per_node
    try:
        known = slurm.gpus_of_partitions()
    except LongrunError:
        return None  # a dry run away from the cluster
    return max(
        (known[name] for name in (partition or "").split(",") if name in known), default=None
    )


def check_gpus(cluster: Cluster, who: str, wanted: int, partition: str | None) -> None:
    """Check that nodes of a cluster have as many GPUs as a job asks for.

    Raises:
        ConfigError: they have not.
    """
    available = gpus_of_nodes(cluster, partition) if wanted else None
    if available is None or wanted <= available or cluster.executor == "local":
        return
    place = f"partition {partition} of cluster" if partition else "cluster"
    source = "its file says gpus_per_node" if cluster.gpus_per_node is not None else "Slurm says"
    remedy = "ask for fewer, on more nodes" if available else "name a partition that has some"
    raise ConfigError(
        f"{who}: {wanted} GPUs on a node, but {place} {cluster.name} has {available} ({source}:"
        f" {available}); {remedy}"
    )


def _resources(cluster: Cluster, stage: StagePlan, settings: JobSettings) -> Resources:
    partition = partition_of(cluster, settings.partition, 1)
    gpus = 0
    if settings.num_gpus is not None or stage.verb in GPU_VERBS:
        here = cluster.gpus_per_node or 0
        known = gpus_of_nodes(cluster, partition) if cluster.executor == "slurm" else here
        gpus = gpus_of(stage, settings, known)
        check_gpus(cluster, f"stage {stage.name}", gpus, partition)
    return Resources(
        num_nodes=getattr(stage.config, "num_nodes", 1),
        num_gpus=gpus,
        cpus=settings.cpus or cluster.cpus_per_node,
        partition=partition_of(cluster, settings.partition, gpus),
        time_limit=settings.time_limit,
        sbatch=tuple(settings.sbatch),
    )


def idle_options(cluster: Cluster, options: Mapping[str, object]) -> list[str]:
    """Say which options of a cluster were given and have no effect on this machine, and why."""
    if cluster.executor != "local":
        return []
    return [f"{name} has no effect here: {_IDLE[name]}" for name, given in options.items() if given]


def partition_of(cluster: Cluster, named: str | None, num_gpus: int) -> str | None:
    """Return the partition of a job: its own, that of jobs without GPUs, or the usual one."""
    if named is not None:
        return named
    return cluster.partition if num_gpus else cluster.cpu_partition or cluster.partition


def cores_here(cluster: Cluster) -> int:
    """Return the cores that local jobs share."""
    return cluster.cpus_per_node or available_cores()
