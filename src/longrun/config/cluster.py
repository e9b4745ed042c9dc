"""Where jobs run: one YAML file per cluster, in ``cluster_configs/`` or any other folder.

A name, a path or ``LONGRUN_CLUSTER`` chooses the file; without any of them jobs run here. Unknown
keys, keys that the executor has no use for and references to nothing stop the program.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    model_validator,
)

from longrun.config.reading import read_yaml
from longrun.config.settings import Settings, nearest
from longrun.errors import ConfigError

CLUSTER_VARIABLE = "LONGRUN_CLUSTER"
"""Name or path of the cluster file when none is named on the command line."""
FOLDER_VARIABLE = "LONGRUN_CLUSTER_CONFIGS"
"""Folder of cluster files when none is named on the command line."""
DEFAULT_FOLDER = Path("cluster_configs")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def parse_duration(value: object) -> int:
    """Return seconds: a number of them, ``90m``, ``3d``, ``1d12h``, ``04:00:00``, ``1-12:00:00``.

    YAML reads an unquoted ``12:00:00`` as its number of seconds, so that is right as well.

    >>> [parse_duration(value) for value in ("5m", "1d12h", "04:00:00", "1-12:00:00", 43200)]
    [300, 129600, 14400, 129600, 43200]
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    text = str(value).strip().lower()
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text)
    units = re.fullmatch(r"(?:\d+[smhdw])+", text)
    seconds = 0
    if clock:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    elif units:
        seconds = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([smhdw])", text))
    if seconds <= 0:
        raise ValueError("is not a time: write 30m, 4h, 3d, 1d12h, 04:00:00 or 1-12:00:00")
    return seconds


Duration = Annotated[int, BeforeValidator(parse_duration, json_schema_input_type=int | str)]


class Mount(Settings):
    """A folder of the host and the name it has inside containers."""

    host: str
    inside: str
    read_only: bool = False


def _as_mount(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    host, *rest = value.split(":")
    inside = rest[0] if rest else host
    flags = rest[1:]
    if len(rest) > 2 or flags not in ([], ["ro"], ["rw"]):
        raise ValueError("is not a mount: write HOST, HOST:INSIDE or HOST:INSIDE:ro")
    for side in (host, inside):
        if not side.startswith("/"):
            raise ValueError(f"both sides of a mount start with /, {side!r} does not")
    return {"host": host, "inside": inside, "read_only": flags == ["ro"]}


class SshSettings(Settings):
    """How to reach the cluster from a workstation, by the system's own ``ssh`` and ``rsync``."""

    host: str
    """As ``ssh`` takes it; users, keys, ports and jumps belong in ``~/.ssh/config``."""
    folder: str
    """Folder of the cluster in which commands run; relative paths start there."""
    python: str = "python3"
    """Interpreter of the cluster's login node that has what Longrun depends on."""


class JobSettings(Settings):
    """What one stage of a recipe asks of the cluster; what is not named follows from the stage."""

    partition: str | None = None
    time_limit: Duration | None = None
    """Wall time of one job; longer work goes on in the next one."""
    num_gpus: NonNegativeInt | None = None
    """GPUs on each node."""
    cpus: PositiveInt | None = None
    """Cores on each node."""
    container: str | None = None
    """Name in ``containers`` of the cluster file, or an image."""
    sbatch: list[str] = []
    """Further options of ``sbatch``, as in ``--qos=high``."""

    @model_validator(mode="after")
    def _options_are_options(self) -> Self:
        _check_options(self.sbatch)
        return self


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
    job_dir: Path = Path("runs")
    """Folder with one folder per experiment, seen by every node under the same path."""
    job_name_prefix: str = ""
    """Leads the names that ``squeue`` shows."""
    account: str | None = None
    partition: str | None = None
    """Partition of every job that names none; null: the cluster's own default."""
    cpu_partition: str | None = None
    """Partition of jobs without GPUs; null: ``partition``."""
    time_limits: dict[str, Duration] = {}
    """Partition -> wall time to ask for; others get the partition's default."""
    save_seconds: PositiveInt = 300
    """Warning before a time limit; a quarter of the limit when that is less."""
    requeue: bool = True
    """Whether jobs may put themselves back in the queue at their time limit. Where a site forbids
    it: false, and ``--num_training_jobs``."""
    max_restarts: NonNegativeInt = 100
    """Times that one job may put itself back."""
    gpus_per_node: NonNegativeInt | None = None
    """0: jobs ask for none. Null: none on Slurm, those of this machine with ``local``."""
    cpus_per_node: PositiveInt | None = None
    """Cores of a node. Null: jobs do not ask on Slurm, those of this machine with ``local``."""
    memory: str | None = None
    """Memory of each node of a job, as ``sbatch --mem`` takes it."""
    exclusive: bool = False
    """Ask for whole nodes."""
    sbatch: list[str] = []
    """Further options of ``sbatch`` for every job, as in ``--qos=high``."""
    max_array_tasks: PositiveInt = 1000
    """Bound of the tasks of one array (``MaxArraySize`` - 1); more parts share tasks."""
    container_runtime: Literal["none", "pyxis", "apptainer"] = "none"
    """How ``container`` is entered."""
    container: str | None = None
    """Image of every job that names none, or its name in ``containers``."""
    containers: dict[str, str] = {}
    """Short name -> image."""
    mounts: list[Annotated[Mount, BeforeValidator(_as_mount)]] = []
    """``HOST``, ``HOST:INSIDE`` or ``HOST:INSIDE:ro``; settings of stages name paths inside."""
    env: dict[str, str] = {}
    """Variables of every job. They are written into ``job.sh``: secrets belong in
    ``required_env``."""
    required_env: list[str] = []
    """Variables that must be set where jobs are submitted; jobs get them by environment only."""
    python: str | None = None
    """Interpreter in jobs; null: this one, or ``python`` inside a container."""
    code: Literal["longrun", "repository"] = "longrun"
    """What is kept with a job so that it runs tomorrow what was submitted today: Longrun, or also
    the git repository around the current folder, in which commands then start."""
    ssh: SshSettings | None = None
    """Null: this machine is a login node."""
    _name: str = PrivateAttr("local")

    @property
    def name(self) -> str:
        """What the file is called, without its ending."""
        return self._name

    def image(self, container: str | None) -> str | None:
        """Return the image that a short name, an image or the default stands for."""
        if self.container_runtime == "none":
            return None
        chosen = container or self.container
        return self.containers.get(chosen, chosen) if chosen else None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        idle = [name for name in _SLURM_ONLY if name in self.model_fields_set]
        if self.executor == "local" and idle:
            raise ValueError(f"{idle[0]} has no effect with executor: local; remove it")
        if self.executor == "local" and self.container_runtime == "pyxis":
            raise ValueError("pyxis is a part of Slurm; executor: local takes apptainer or none")
        names = [name for name in ("container", "containers", "mounts") if getattr(self, name)]
        if self.container_runtime == "none" and names:
            raise ValueError(f"{names[0]} needs container_runtime: pyxis or apptainer")
        for name in (*self.env, *self.required_env):
            if not _VARIABLE.match(name):
                raise ValueError(f"{name!r} is not the name of a variable")
        _check_options(self.sbatch)
        if self.executor == "slurm" and not self.job_dir.is_absolute():
            raise ValueError(f"job_dir must start with / on a cluster, {self.job_dir} does not")
        return self


def _check_options(options: list[str]) -> None:
    for option in options:
        if not re.match(r"^-{1,2}[A-Za-z]", option) or "\n" in option:
            raise ValueError(f"sbatch: {option!r} is not an option; write --name=value")


def load_cluster(name: str | None, folder: Path | None = None) -> Cluster:
    """Read a cluster file: by path, by name in ``folder``, or as ``LONGRUN_CLUSTER`` says.

    Without any name, and for ``local`` without a file of that name, jobs run on this machine.

    Raises:
        ConfigError: there is no such file (the known names are given), or a key in it is wrong.
    """
    chosen = name or os.environ.get(CLUSTER_VARIABLE)
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
    return cluster
