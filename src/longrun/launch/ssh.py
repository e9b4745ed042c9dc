"""Run a command line on a cluster's login node, by the system's own ``ssh`` and ``rsync``.

The files that it names and Longrun's own code go along, and the same command runs there as it
would for somebody who had logged in. So names, states and logs are those of the cluster, whoever
asks. Secrets travel through the connection's standard input, never in files or command lines.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from longrun.config.cluster import Cluster
from longrun.config.plain_yaml import dump_yaml
from longrun.errors import LaunchError, ResourceError
from longrun.formats.stages import fingerprint
from longrun.launch.snapshot import Copy, copy_longrun, copy_repository
from longrun.launch.submit import REPOSITORY_VARIABLE

SENT_FOLDER = "sent"
"""Folder in the cluster's job folder for recipes and cluster files that were sent along."""
KEPT_SECONDS = 60
"""How long a connection is kept for the next command."""
SSH_FAILED = 255
_WITH_VALUE = ("--cluster", "--config_dir")


def forward(cluster: Cluster, words: list[str]) -> int:
    """Run ``longrun WORDS`` on the cluster and return its exit code.

    Raises:
        ResourceError: ssh or rsync is not installed.
        LaunchError: the cluster cannot be reached.
        ConfigError: a required variable is not set.
    """
    from longrun.launch.submit import check_variables

    assert cluster.ssh is not None
    check_variables(cluster)
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            raise ResourceError(f"{program} is not installed here; install it or log in instead")
    copies = [copy_longrun(cluster.job_dir)]
    if cluster.code == "repository":
        copies.append(copy_repository(Path.cwd(), cluster.job_dir))
    with tempfile.TemporaryDirectory(prefix="longrun-") as place:
        staging = Path(place)
        remote = _stage(cluster, words, copies, staging)
        _send(cluster, staging)
    return _run(cluster, _script(cluster, remote, copies))


def _stage(cluster: Cluster, words: list[str], copies: list[Copy], staging: Path) -> list[str]:
    """Lay out what is sent as it will lie in the job folder; return the words to run there."""
    for copy in copies:
        target = staging / copy.place.relative_to(cluster.job_dir.absolute())
        for path, name in copy.names.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)
    remote = []
    for word in _without_cluster(words):
        is_recipe = word.endswith((".yaml", ".yml")) and Path(word).is_file()
        remote.append(
            str(_sent(cluster, staging, Path(word).name, Path(word).read_text()))
            if is_recipe
            else word
        )
    settings = cluster.model_dump(mode="json", exclude_unset=True, exclude={"ssh"})
    settings["mounts"] = [mount.model_dump() for mount in cluster.mounts]
    text = dump_yaml(settings)
    file = _sent(cluster, staging, f"{cluster.name}.yaml", text)
    return [remote[0], "--cluster", str(file), *remote[1:]]


def _sent(cluster: Cluster, staging: Path, name: str, text: str) -> Path:
    """Put a text file among what is sent, by its content; return its path on the cluster."""
    place = Path(SENT_FOLDER) / fingerprint.of_value({"text": text})[:16] / name
    (staging / place).parent.mkdir(parents=True, exist_ok=True)
    (staging / place).write_text(text)
    return cluster.job_dir / place


def _without_cluster(words: list[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if skip or word.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            skip = False
        elif word in _WITH_VALUE:
            skip = True
        else:
            yield word


def _send(cluster: Cluster, staging: Path) -> None:
    assert cluster.ssh is not None
    made = _ssh(cluster, f"mkdir -p {shlex.quote(str(cluster.job_dir))}\n", capture=True)
    _check(cluster, "ssh", made)
    done = subprocess.run(
        [
            "rsync",
            "--archive",
            "--ignore-existing",
            "--rsh",
            shlex.join(["ssh", *_options()]),
            f"{staging}/",
            f"{cluster.ssh.host}:{cluster.job_dir}/",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    _check(cluster, "rsync", done)


def _script(cluster: Cluster, words: list[str], copies: list[Copy]) -> str:
    """Return the shell text that runs on the login node; it goes there by standard input."""
    assert cluster.ssh is not None
    lines = [f"export {name}={shlex.quote(os.environ[name])}" for name in cluster.required_env]
    lines.append(f"export PYTHONPATH={shlex.quote(str(copies[0].place))}")
    if len(copies) > 1:
        inside = Path.cwd().resolve().relative_to(copies[1].root.resolve())
        value = f"{copies[1].place}:{inside}"
        lines.append(f"export {REPOSITORY_VARIABLE}={shlex.quote(value)}")
    command = shlex.join([cluster.ssh.python, "-m", "longrun", *words])
    lines.append(f"cd {shlex.quote(cluster.ssh.folder)} && exec {command} < /dev/null")
    return "\n".join([*lines, ""])


def _run(cluster: Cluster, script: str) -> int:
    done = _ssh(cluster, script, capture=False)
    if done.returncode == SSH_FAILED:
        _check(cluster, "ssh", done)
    return done.returncode


def _ssh(cluster: Cluster, script: str, *, capture: bool) -> "subprocess.CompletedProcess[str]":
    assert cluster.ssh is not None
    return subprocess.run(
        ["ssh", *_options(), cluster.ssh.host, "bash -s"],
        input=script,
        text=True,
        check=False,
        capture_output=capture,
    )


def _options() -> list[str]:
    folder = Path(tempfile.gettempdir()) / f"longrun-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return [
        "-o", "ControlMaster=auto",
        "-o", f"ControlPath={folder}/%C",
        "-o", f"ControlPersist={KEPT_SECONDS}",
    ]  # fmt: skip


def _check(cluster: Cluster, program: str, done: "subprocess.CompletedProcess[str]") -> None:
    if done.returncode:
        assert cluster.ssh is not None
        words = (done.stderr or "").strip().splitlines() or [f"exit code {done.returncode}"]
        raise LaunchError(
            f"{program} {cluster.ssh.host}: {words[-1]}; check that `ssh {cluster.ssh.host}` works,"
            " then run the same command again"
        )
