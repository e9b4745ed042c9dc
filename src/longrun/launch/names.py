"""Whether Slurm and bash can read every name of a job as it is written; checked before any is used.

The cluster file's own names are checked where it is read.
"""

from longrun.config.cluster import Cluster
from longrun.config.names import fault_of
from longrun.config.sbatch_options import passes_on
from longrun.errors import ConfigError
from longrun.launch.jobs import Job
from longrun.launch.script import quote_directive, sbatch_options

MOST_BYTES = 4000
"""Length of one option; Slurm reads half as much again into a buffer of its own."""


def check_names(cluster: Cluster, job: Job, experiment: str) -> None:
    """Check the names of ``job`` for its scripts and its submission.

    Raises:
        ConfigError: one would be read as something else; the setting is named.
    """
    own = str(cluster.job_dir.absolute().resolve())
    setting = "job_dir" if str(job.folder).startswith(own) else "output_dir"
    paths = {setting: job.folder, "working folder": job.start_in, "log_dir": job.log}
    for what, path in paths.items():
        if fault := fault_of(str(path)):
            raise ConfigError(f"{what} {str(path)!r} {fault}")
    if cluster.executor == "slurm":
        _check_slurm(cluster, job, experiment, setting)


def _check_slurm(cluster: Cluster, job: Job, experiment: str, setting: str) -> None:
    if "\\" in str(job.folder):
        raise ConfigError(
            f"{setting} {str(job.folder)!r} holds a backslash, which Slurm takes out of the path of"
            " a log; rename the folder"
        )
    for option in sbatch_options(cluster, job, experiment):
        if len(quote_directive(option).encode()) > MOST_BYTES:
            raise ConfigError(
                f"{option[:40]!r}... is longer than {MOST_BYTES} bytes, which Slurm would not read;"
                " shorten it"
            )
    options = [*cluster.sbatch, *job.resources.sbatch]
    for name in cluster.required_env:
        if not passes_on(options, name):
            raise ConfigError(
                f"required_env: {name} would not reach the job, since sbatch: has --export without"
                f" it; write --export=ALL or --export={name}"
            )
