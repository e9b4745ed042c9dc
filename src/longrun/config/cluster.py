"""Where jobs run: one YAML file per cluster, in ``cluster_configs/`` or any other folder.

A name, a path or ``LONGRUN_CLUSTER`` chooses the file; without any of them jobs run here. Unknown
keys, keys that the executor has no use for and references to nothing stop the program.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    model_validator,
)

from longrun.config.durations import Duration
from longrun.config.names import Line, LinePath, Value, Variable, check_line, fault_of
from longrun.config.reading import read_yaml
from longrun.config.sbatch_options import check_option
from longrun.config.settings import Settings, nearest
from longrun.errors import ConfigError

CLUSTER_VARIABLE = "LONGRUN_CLUSTER"
"""Name or path of the cluster file when none is named on the command line."""
FOLDER_VARIABLE = "LONGRUN_CLUSTER_CONFIGS"
"""Folder of cluster files when none is named on the command line."""
DEFAULT_FOLDER = Path("cluster_configs")
_FROM_ENVIRONMENT = {"account": "SBATCH_ACCOUNT", "partition": "SBATCH_PARTITION"}
"""Key of a cluster file -> variable of Slurm that stands for it where the file does not say."""
NO_IMAGE = "none"
_MEMORY = re.compile(r"\d+([KMGTkmgt][Bb]?)?")


def _check_memory(text: str) -> str:
    if not _MEMORY.fullmatch(text):
        raise ValueError("is not an amount of memory: write 64G, 500M, or 0 for all of a node")
    return text


def _check_image(text: str) -> str:
    if not text or text.startswith("-"):
        raise ValueError("is not the name of an image")
    return text


def _check_side(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must start with /, as both sides of a mount")
    if "," in text or ":" in text:
        raise ValueError("holds a comma or a colon, at which mounts are split; rename the folder")
    return check_line(text)


def _check_host(text: str) -> str:
    if not text or text.startswith("-"):
        raise ValueError("is not the name of a host")
    return text


Memory = Annotated[Line, AfterValidator(_check_memory)]
Image = Annotated[Line, AfterValidator(_check_image)]
MountSide = Annotated[str, AfterValidator(_check_side)]
SbatchOption = Annotated[str, AfterValidator(check_option)]


class Mount(Settings):
    """A folder of the host and the name it has inside containers."""

    host: MountSide
    inside: MountSide
    read_only: bool = False


def _as_mount(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    host, *rest = value.split(":")
    inside = rest[0] if rest else host
    flags = rest[1:]
    if len(rest) > 2 or flags not in ([], ["ro"], ["rw"]):
        raise ValueError("is not a mount: write HOST, HOST:INSIDE or HOST:INSIDE:ro")
    return {"host": host, "inside": inside, "read_only": flags == ["ro"]}


class SshSettings(Settings):
    """How to reach the cluster from a workstation, by the system's own ``ssh`` and ``rsync``."""

    host: Annotated[Line, AfterValidator(_check_host)]
    """As ``ssh`` takes it; users, keys, ports and jumps belong in ``~/.ssh/config``."""
    folder: Line
    """Folder of the cluster in which commands run; relative paths start there."""
    python: Line = "python3"
    """Interpreter of the cluster's login node that has what Longrun depends on."""


class JobSettings(Settings):
    """What one stage of a recipe asks of the cluster; what is not named follows from the stage."""

    partition: Line | None = None
    time_limit: Duration | None = None
    """Wall time of one job; longer work goes on in the next one."""
    num_gpus: NonNegativeInt | None = None
    """GPUs on each node."""
    cpus: PositiveInt | None = None
    """Cores on each node."""
    container: Image | None = None
    """Name in ``containers`` of the cluster file, or an image."""
    sbatch: list[SbatchOption] = []
    """Further options of ``sbatch``, as in ``--qos=high``."""


_SLURM_ONLY = [
    "account",
    "partition",
    "cpu_partition",
    "time_limits",
    "save_seconds",
    "requeue",
    "max_restarts",
    "memory",
    "exclusive",
    "sbatch",
    "max_array_tasks",
    "ssh",
]


class Cluster(Settings):
    """One cluster file."""

    executor: Literal["local", "slurm"]
    """``local``: processes of this machine. ``slurm``: jobs of ``sbatch``."""
    job_dir: LinePath = Path("runs")
    """Folder with one folder per experiment, seen by every node under the same path."""
    job_name_prefix: Line = ""
    """Leads the names that ``squeue`` shows."""
    account: Line | None = None
    partition: Line | None = None
    """Partition of every job that names none; null: the cluster's own default."""
    cpu_partition: Line | None = None
    """Partition of jobs without GPUs; null: ``partition``."""
    time_limits: dict[Line, Duration] = {}
    """Partition -> wall time to ask for; others get the partition's default."""
    save_seconds: PositiveInt = 300
    """Warning before a time limit; a quarter of the limit when that is less."""
    requeue: bool = True
    """Whether jobs may put themselves back in the queue at their time limit. Where a site forbids
    it: false, and ``--num_training_jobs``."""
    max_restarts: NonNegativeInt = 100
    """Times that one job may put itself back."""
    gpus_per_node: NonNegativeInt | None = None
    """0: jobs ask for none. Null: what Slurm says, those of this machine with ``local``."""
    cpus_per_node: PositiveInt | None = None
    """Cores of a node. Null: jobs do not ask on Slurm, those of this machine with ``local``."""
    memory: Memory | None = None
    """Memory of each node of a job, as ``sbatch --mem`` takes it."""
    exclusive: bool = False
    """Ask for whole nodes."""
    sbatch: list[SbatchOption] = []
    """Further options of ``sbatch`` for every job, as in ``--qos=high``."""
    max_array_tasks: PositiveInt = 1000
    """Bound of the tasks of one array (``MaxArraySize`` - 1); more parts share tasks."""
    container_runtime: Literal["none", "pyxis", "apptainer"] = "none"
    """How ``container`` is entered."""
    container: Image | None = None
    """Image of every job that names none, or its name in ``containers``."""
    containers: dict[Line, Image] = {}
    """Short name -> image; ``none``: what names it runs in no container."""
    mounts: list[Annotated[Mount, BeforeValidator(_as_mount)]] = []
    """``HOST``, ``HOST:INSIDE`` or ``HOST:INSIDE:ro``; settings of stages name paths inside."""
    env: dict[Variable, Value] = {}
    """Variables of every job. They are written into ``job.sh``: secrets belong in
    ``required_env``."""
    required_env: list[Variable] = []
    """Variables that must be set where jobs are submitted; jobs get them by environment only."""
    python: Line | None = None
    """Interpreter in jobs; null: this one, or ``python`` inside a container."""
    code: Literal["longrun", "repository"] = "longrun"
    """What is kept with a job so that it runs tomorrow what was submitted today: Longrun, or also
    the git repository around the current folder, in which commands then start."""
    ssh: SshSettings | None = None
    """Null: this machine is a login node."""
    _name: str = PrivateAttr("local")
    _option: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """What the file is called, without its ending."""
        return self._name

    @property
    def option(self) -> str:
        """What a command line needs to find this file again, with a space in front."""
        return self._option

    def image(self, container: str | None) -> str | None:
        """Return the image that a short name, an image or the default stands for; None: none.

        Raises:
            ConfigError: a container is named and the cluster has none.
        """
        chosen = container or self.container
        image = self.containers.get(chosen, chosen) if chosen else None
        if image == NO_IMAGE:
            return None
        if image and self.container_runtime == "none":
            raise ConfigError(
                f"container {chosen!r}: cluster {self.name} has container_runtime: none; leave the"
                f" container out, or say that it stands for none here: `containers: {{{chosen}:"
                f" {NO_IMAGE}}}` in the cluster file"
            )
        return image

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        idle = [name for name in _SLURM_ONLY if name in self.model_fields_set]
        if self.executor == "local" and idle:
            raise ValueError(f"{idle[0]} has no effect with executor: local; remove it")
        if self.executor == "local" and self.container_runtime == "pyxis":
            raise ValueError("pyxis is a part of Slurm; executor: local takes apptainer or none")
        names = [name for name in ("container", "mounts") if getattr(self, name)]
        if self.container_runtime == "none" and names:
            raise ValueError(f"{names[0]} needs container_runtime: pyxis or apptainer")
        if self.executor == "slurm" and not self.job_dir.is_absolute():
            raise ValueError(f"job_dir must start with / on a cluster, {self.job_dir} does not")
        self._check_paths()
        return self

    def _check_paths(self) -> None:
        """Refuse paths that a list of Slurm, Python or a container runtime would split."""
        mounts = [side for mount in self.mounts for side in (mount.host, mount.inside)]
        job_dir = str(self.job_dir)
        split = {"slurm": ":\\", "local": ""}[self.executor]
        split += ",:" if self.container_runtime != "none" else ""
        split += " " if self.container_runtime == "pyxis" else ""
        for sign in split:
            if sign in job_dir:
                raise ValueError(f"job_dir holds {sign!r}, at which it would be split; rename it")
        if self.container_runtime == "pyxis" and any(" " in side for side in mounts):
            raise ValueError("mounts: Pyxis splits paths at blanks; rename the folder")


def load_cluster(name: str | None, folder: Path | None = None) -> Cluster:
    """Read a cluster file: by path, by name in ``folder``, or as ``LONGRUN_CLUSTER`` says.

    Without any name, and for ``local`` without a file of that name, jobs run on this machine.

    Raises:
        ConfigError: there is no such file (the known names are given), or a key in it is wrong.
    """
    cluster = _choose(name or os.environ.get(CLUSTER_VARIABLE), folder)
    words = {"--cluster": name, "--config_dir": folder and str(folder)}
    cluster._option = "".join(f" {key} {shlex.quote(word)}" for key, word in words.items() if word)
    return cluster


def _choose(chosen: str | None, folder: Path | None) -> Cluster:
    if chosen is None:
        return Cluster(executor="local")
    if chosen.endswith((".yaml", ".yml")) or "/" in chosen:
        return read_cluster(Path(chosen))
    place = folder or Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER))
    path = place / f"{chosen}.yaml"
    if not path.exists():
        if chosen == "local":
            return Cluster(executor="local")
        known = [*sorted(file.stem for file in place.glob("*.yaml")), "local"]
        raise ConfigError(
            f"cluster {chosen!r}: {path} does not exist; {nearest(chosen, known)}"
            " Write one with `longrun setup`"
        )
    return read_cluster(path)


def read_cluster(path: Path) -> Cluster:
    """Read the cluster file at ``path``; see ``load_cluster``."""
    cluster = Cluster.parse(read_yaml(path), str(path))
    cluster._name = path.stem
    return with_environment(cluster)


def with_environment(cluster: Cluster) -> Cluster:
    """Return ``cluster`` with what it leaves out and Slurm's own variables say.

    Raises:
        ConfigError: such a variable holds what cannot be.
    """
    if cluster.executor != "slurm" or cluster.ssh is not None:
        return cluster
    found = {}
    for key, variable in _FROM_ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value and getattr(cluster, key) is None:
            if fault := fault_of(value):
                raise ConfigError(f"{variable} {value!r} {fault}")
            found[key] = value
    return cluster.model_copy(update=found)
