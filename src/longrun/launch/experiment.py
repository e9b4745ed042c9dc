"""An experiment: one folder with the graph of its jobs, found by its name in later commands.

    <job_dir>/<name>/graph.json      jobs and edges, the cluster, when it was started
    <job_dir>/<name>/recipe.yaml     the resolved recipe, if a recipe made it
    <job_dir>/<name>/jobs/<job>/     scripts, states and logs; see ``jobs``
    <job_dir>/code/                  copies of code that jobs run

When a recipe puts its output elsewhere, ``<job_dir>/<name>`` is a link to that place. Names are
looked up on the file system that the jobs see, so whoever can read it can wait for them. Commands
that change an experiment hold its lock, which goes with the process.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from longrun.config.cluster import Cluster
from longrun.config.names import NAME
from longrun.config.settings import nearest
from longrun.errors import ConfigError, LaunchError
from longrun.formats.stages.atomic import write_text
from longrun.launch.jobs import JobState, state_of

GRAPH_NAME = "graph.json"
JOBS_FOLDER = "jobs"
_LOCK_NAME = ".experiment.lock"
_KNOWN_NAMES = 20
"""Names that an error lists, newest first."""


@dataclass(frozen=True, slots=True)
class Node:
    """One job of a graph as it is kept."""

    name: str
    folder: Path
    after: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """What ``graph.json`` holds."""

    name: str
    cluster: str
    executor: str
    started: float
    """Unix time of the first start."""
    jobs: tuple[Node, ...]

    def last_jobs(self) -> list[Path]:
        """Return the folders of started jobs that no other started job waits for."""
        started = [job for job in self.jobs if (job.folder / "job.sh").exists()]
        inner = {before for job in started for before in job.after}
        return [job.folder for job in started if job.folder not in inner]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A name and its folder."""

    name: str
    folder: Path
    """Absolute."""

    def job_folder(self, job: str) -> Path:
        """Return the folder of the job called ``job``."""
        return self.folder / JOBS_FOLDER / job


def make_experiment(job_dir: Path, name: str, folder: Path | None = None) -> Experiment:
    """Make the folder of an experiment, and the name by which it is found.

    Raises:
        ConfigError: ``name`` is no name, or another experiment has it.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"expname {name!r}: use up to 200 letters, digits, . _ -")
    place = folder or job_dir / name
    place.mkdir(parents=True, exist_ok=True)
    place = place.resolve()
    entry = job_dir.absolute() / name
    if not entry.exists():
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.unlink(missing_ok=True)  # a link to a folder that was deleted
        entry.symlink_to(place)
    elif entry.resolve() != place:
        raise ConfigError(
            f"expname {name!r} belongs to {entry.resolve()}; choose another --expname"
        )
    return Experiment(name, place)


def find_experiment(job_dir: Path, name: str) -> Experiment:
    """Return the experiment called ``name``.

    Raises:
        ConfigError: there is none; the nearest or the newest names are given.
    """
    folder = job_dir.absolute() / name
    if NAME.fullmatch(name) and (folder / GRAPH_NAME).exists():
        return Experiment(name, folder.resolve())
    known = [path.name for path in experiment_folders(job_dir)]
    hint = nearest(name, known[:_KNOWN_NAMES]) if known else "there is none yet"
    close = nearest(name, known) if known else hint
    raise ConfigError(
        f"no experiment {name!r} in {job_dir}; {close if close.startswith('did') else hint}"
    )


def experiment_folders(job_dir: Path) -> list[Path]:
    """Return the folders of all experiments, the newest first."""
    try:
        entries = list(os.scandir(job_dir))
    except FileNotFoundError:
        return []
    found = []
    for entry in entries:
        try:
            found.append((os.stat(f"{entry.path}/{GRAPH_NAME}").st_mtime_ns, entry.path))
        except OSError:
            continue
    return [Path(path) for _, path in sorted(found, reverse=True)]


@contextmanager
def locked(experiment: Experiment) -> Iterator[None]:
    """Keep every other command from changing the experiment.

    Raises:
        LaunchError: another command is at work on it.
    """
    with open(experiment.folder / _LOCK_NAME, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise LaunchError(
                f"experiment {experiment.name}: another command is at work on it ({lock.read()});"
                " wait for it or end it"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def holder_of(experiment: Experiment) -> int | None:
    """Return the process of this machine that holds the lock; None: nobody here does."""
    try:
        with open(experiment.folder / _LOCK_NAME) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        words = (experiment.folder / _LOCK_NAME).read_text().split()
        here = len(words) == 4 and words[3] == socket.gethostname()
        return int(words[1]) if here else None
    except FileNotFoundError:
        return None
    return None


def write_graph(
    experiment: Experiment, cluster: Cluster, after: Mapping[str, Iterable[Path]]
) -> None:
    """Keep the jobs of the experiment and their edges: job name -> folders it waits for."""
    path = experiment.folder / GRAPH_NAME
    own = experiment.folder / JOBS_FOLDER
    started = read_graph(experiment.folder).started if path.exists() else time.time()
    graph = {
        "name": experiment.name,
        "cluster": cluster.name,
        "executor": cluster.executor,
        "started": started,
        "jobs": {
            job: [folder.name if folder.parent == own else str(folder) for folder in folders]
            for job, folders in after.items()
        },
    }
    write_text(path, json.dumps(graph, indent=1))


def read_graph(folder: Path) -> Graph:
    """Read the graph of the experiment in ``folder``.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path, own = folder / GRAPH_NAME, folder / JOBS_FOLDER
    try:
        raw = json.loads(path.read_text())
        jobs = tuple(
            Node(name, own / name, tuple(own / before for before in after))
            for name, after in raw["jobs"].items()
        )
        return Graph(raw["name"], raw["cluster"], raw["executor"], float(raw["started"]), jobs)
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no experiment here ({GRAPH_NAME} is missing)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is damaged ({error}); start the experiment again") from None


def jobs_before(job_dir: Path, names: Iterable[str], own: str) -> list[Path]:
    """Return the last jobs of the named experiments, those that a new one must wait for.

    Raises:
        ConfigError: a name is unknown, or is the experiment's own.
    """
    found: list[Path] = []
    for name in names:
        if name == own:
            raise ConfigError(f"run_after {name!r}: an experiment cannot wait for itself")
        found += read_graph(find_experiment(job_dir, name).folder).last_jobs()
    return found


def check_before(folders: Iterable[Path], in_queue: Mapping[str, JobState]) -> None:
    """Check that jobs that are to be waited for are done, or still may be.

    Raises:
        LaunchError: one failed, was cancelled or interrupted.
    """
    for folder in folders:
        state = state_of(folder, in_queue)
        if not state.live and state.state != "done":
            experiment = folder.parent.parent.name
            raise LaunchError(
                f"run_after {experiment!r}: its job {folder.name} is {state.state}: {state.reason}"
                f" (log: {folder / 'log.txt'}); run it again first"
            )
