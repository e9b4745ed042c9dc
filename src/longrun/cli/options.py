"""Options that several verbs share, and the cluster that they choose."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from longrun.config.cluster import Cluster, load_cluster
from longrun.config.composition import read_composed
from longrun.config.plain_yaml import dump_yaml
from longrun.config.reading import read_yaml
from longrun.launch.ssh import forward


def with_underscores(name: str) -> str:
    """Return the one spelling of an option or verb: ``--dry-run`` is ``--dry_run``."""
    return name.replace("-", "_")


ClusterName = Annotated[
    str | None,
    typer.Option("--cluster", help="Cluster file, by name or path; default: LONGRUN_CLUSTER."),
]
ConfigDir = Annotated[
    Path | None,
    typer.Option("--config_dir", help="Folder of cluster files; default: cluster_configs."),
]
RunAfter = Annotated[
    list[str] | None,
    typer.Option("--run_after", help="Experiments that must be done first (a,b or repeated)."),
]
LogDir = Annotated[Path | None, typer.Option("--log_dir", help="Folder for the logs, one per job.")]
Partition = Annotated[str | None, typer.Option(help="Partition of the jobs.")]
TimeLimit = Annotated[
    str | None, typer.Option("--time_limit", help="Wall time, as in 30m, 4h, 3d.")
]
DryRun = Annotated[
    bool, typer.Option("--dry_run", help="Print what would run, with every script, and stop.")
]


def choose_cluster(name: str | None, folder: Path | None) -> Cluster:
    """Read the cluster file; one that is reached by ssh runs this very command line there.

    Raises:
        ConfigError: see ``load_cluster``.
        LaunchError: ssh or rsync failed.
    """
    cluster = load_cluster(name, folder)
    if cluster.ssh is not None:
        with tempfile.TemporaryDirectory(prefix="longrun-") as place:
            words = [_in_one_file(word, Path(place)) for word in sys.argv[1:]]
            raise typer.Exit(forward(cluster, words))
    return cluster


def _in_one_file(word: str, folder: Path) -> str:
    """Return ``word``; for a recipe that extends others, a copy in ``folder`` with all of them."""
    path = Path(word)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return word
    if "extends" not in read_yaml(path):
        return word
    copy = folder / path.name
    copy.write_text(dump_yaml(read_composed(path)))
    return str(copy)


def names_in(values: list[str] | None) -> tuple[str, ...]:
    """Return the names of a repeated option whose values may also be lists with commas."""
    return tuple(name for value in values or [] for name in value.split(",") if name)
