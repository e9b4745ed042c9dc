"""One real Slurm for all tests of this folder, and a folder with a cluster file for each test."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from longrun.config.cluster import Cluster, read_cluster

from .cluster import SlurmCluster, missing_programs

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A running cluster of three nodes; skips, and says so, where Slurm is not installed."""
    missing = missing_programs()
    if missing:
        pytest.skip(
            f"NO TEST AGAINST A REAL SLURM: {', '.join(missing)} not installed; apt-get install"
            " slurmctld slurmd slurm-client munge"
        )
    # Not in pytest's own folder: munged wants a socket that everybody can reach.
    folder = Path(tempfile.mkdtemp(prefix="longrun-slurm-"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder, plugins=_build_pyxis_double(folder))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _build_pyxis_double(folder: Path) -> str:
    """Compile the double; without a compiler or Slurm's headers the cluster has no containers."""
    library = folder / "pyxis_double.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(HERE / "pyxis_double.c")]
    try:
        built = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        built = False
    return f"required {library}\n" if built else ""


@dataclass
class Desk:
    """A user's folder with a cluster file called ``test``, and the command line."""

    folder: Path
    slurm: SlurmCluster

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def write_cluster(self, **settings) -> Cluster:
        values = {
            "executor": "slurm",
            "job_dir": str(self.runs),
            "partition": "batch",
            "python": sys.executable,
            **settings,
        }
        path = self.folder / "cluster_configs/test.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values))
        return read_cluster(path)

    def cluster(self) -> Cluster:
        """Read the cluster file again."""
        return read_cluster(self.folder / "cluster_configs/test.yaml")

    def longrun(self, *words: str, check: bool = True, **variables: str) -> str:
        """Run the command line; return what it printed, or its error without ``check``."""
        done = subprocess.run(
            [sys.executable, "-m", "longrun", *words],
            cwd=self.folder,
            env={**self.slurm.environment, "LONGRUN_CLUSTER": "test", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert (done.returncode == 0) == check, done.stdout + done.stderr
        return done.stdout if check else done.stderr

    def states(self, name: str) -> dict[str, str]:
        from longrun.launch.inspect_jobs import rows_of

        rows, silent = rows_of(self.runs / name)
        assert not silent
        return {row.name: row.state for row in rows}

    def wait_for(self, name: str, seconds: float = 100.0, **wanted: str) -> None:
        """Wait until jobs of an experiment are in the wanted states."""
        self.until(
            lambda: wanted.items() <= (states := self.states(name)).items() or print(states),
            f"{name} {wanted}",
            seconds,
        )

    def until(self, condition: Callable[[], object], what: str, seconds: float = 100.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            logs = {str(p): p.read_text()[-1500:] for p in self.runs.rglob("log.txt")}
            assert time.monotonic() < end, f"waited too long for {what}: {logs}"
            time.sleep(0.2)

    def log(self, name: str, job: str | None = None) -> str:
        return (self.runs / name / "jobs" / (job or name) / "log.txt").read_text()


@pytest.fixture
def desk(slurm, tmp_path, monkeypatch) -> Desk:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.chdir(tmp_path)
    made = Desk(tmp_path, slurm)
    made.write_cluster()
    return made
