"""Containers: the options that enter one, and the two names that a path has outside and inside.

Pyxis takes options of ``srun``; Apptainer is a program in front of the command; without a runtime
paths are what they are. Longrun itself works with the names outside: what a user names as inside
is translated once by ``on_host``, and once back by ``find_inside`` for what runs in a container.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from longrun.config.cluster import Cluster, Mount
from longrun.errors import ConfigError
from longrun.launch.jobs import Job

HOST_VALUES = (
    "PYTHONPATH",
    "LONGRUN_PROGRESS",
    "LONGRUN_FOLDER",
    "LONGRUN_LOCK_SECONDS",
    "LONGRUN_PART",
    "LONGRUN_NUM_PARTS",
    "LONGRUN_CODE",
    "NNODES",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables for which the job's value holds, also where an image brings its own."""


def mounts_of(cluster: Cluster, job: Job | None = None) -> list[Mount]:
    """Return the mounts of the cluster file and, if they leave it out, the job folder.

    With ``job`` also its own folder, which its scripts know by the name outside.
    """
    mounts = list(cluster.mounts)
    for own in [cluster.job_dir.absolute(), *([job.folder] if job else [])]:
        if not _is_below(str(own), [mount for mount in mounts if mount.host == mount.inside]):
            mounts.append(Mount(host=str(own), inside=str(own)))
    return mounts


def srun_options(cluster: Cluster, job: Job) -> list[str]:
    """Return what enters the container of ``job`` by Pyxis; nothing without one."""
    if job.image is None or cluster.container_runtime != "pyxis":
        return []
    names = dict.fromkeys([*HOST_VALUES, *cluster.env, *job.env, *cluster.required_env])
    return [
        f"--container-image={job.image}",
        "--container-mounts=" + ",".join(map(_mount, mounts_of(cluster, job))),
        f"--container-workdir={job.start_in}",
        "--no-container-mount-home",
        f"--container-env={','.join(names)}",
    ]


def leading_words(cluster: Cluster, job: Job) -> list[str]:
    """Return the words in front of the command that enter the container by Apptainer."""
    if job.image is None or cluster.container_runtime != "apptainer":
        return []
    binds = [word for mount in mounts_of(cluster, job) for word in ("--bind", _mount(mount))]
    gpus = ["--nv"] if job.resources.num_gpus else []
    return ["apptainer", "exec", *gpus, *binds, "--pwd", str(job.start_in), job.image]


def check_image(image: str | None) -> None:
    """Check that an image that is a path exists; names of registries pass.

    Raises:
        ConfigError: nothing is there.
    """
    if image and image.startswith(("/", ".")) and not Path(image).exists():
        raise ConfigError(f"container {image}: does not exist; build it or correct the path")


def check_mounts(cluster: Cluster) -> None:
    """Check that every mounted folder exists.

    Raises:
        ConfigError: one does not.
    """
    for mount in cluster.mounts:
        if not Path(mount.host).exists():
            raise ConfigError(f"mounts: {mount.host} does not exist; create it or correct the path")


def check_covered(cluster: Cluster, what: str, paths: Iterable[Path]) -> None:
    """Check that every path, as outside, lies in a mount.

    Raises:
        ConfigError: one does not; it would not exist inside the container.
    """
    for path in paths:
        if find_inside(cluster, path) is None:
            inside = ", ".join(mount.inside for mount in mounts_of(cluster))
            raise ConfigError(
                f"{what}: {path} is in no mount of the cluster file ({inside}) and would not exist"
                " in the container; add a mount or move it"
            )


def find_inside(cluster: Cluster, path: Path) -> Path | None:
    """Return the name that ``path``, as outside, has inside containers; None: it has none.

    Where several mounts hold it, the deepest that may be written to.
    """
    real = os.path.realpath(path)
    mounts = [(mount, os.path.realpath(mount.host)) for mount in mounts_of(cluster)]
    holding = [(mount, host) for mount, host in mounts if _holds(host, real)]
    for mount, host in sorted(holding, key=_preference, reverse=True):
        name = Path(mount.inside.rstrip("/") + "/" + os.path.relpath(real, host))
        if os.path.realpath(on_host(cluster, name)) == real:  # no other mount lies over it
            return name
    return None


def _preference(mount_and_host: tuple[Mount, str]) -> tuple[int, bool, bool]:
    mount, host = mount_and_host
    return len(host), not mount.read_only, mount.host == mount.inside


def on_host(cluster: Cluster, path: Path) -> Path:
    """Return where a path that is meant inside the container lies on the host."""
    best = max(
        (mount for mount in cluster.mounts if _is_below(str(path), [mount])),
        key=lambda mount: len(mount.inside),
        default=None,
    )
    if best is None:
        return path
    return Path(best.host + str(path)[len(best.inside.rstrip("/")) :])


def _is_below(path: str, mounts: list[Mount]) -> bool:
    absolute = os.path.normpath(path)
    return any(_holds(os.path.normpath(mount.inside), absolute) for mount in mounts)


def _holds(folder: str, path: str) -> bool:
    # Whole names: /data does not hold /data2.
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _mount(mount: Mount) -> str:
    return f"{mount.host}:{mount.inside}" + (":ro" if mount.read_only else "")
