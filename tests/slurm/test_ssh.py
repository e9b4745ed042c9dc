"""The command line from a workstation: the system's ssh and rsync against a real sshd."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from longrun.training.nodes import free_port

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("slurm")]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The name of a host that is this machine, reached through an sshd of our own."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("rsync") is None:
        pytest.skip("NO TEST AGAINST A REAL SSHD: install openssh-server, openssh-client, rsync")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    port = free_port("127.0.0.1")
    options = {
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": folder / "pid",
        "StrictModes": "no",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    words = [f"-o{name}={value}" for name, value in options.items()]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-oListenAddress=127.0.0.1", *words],
        stderr=subprocess.PIPE,
    )
    config = folder / "config"
    config.write_text(
        f"Host big\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user\n"
        f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n"
    )
    # What ~/.ssh/config is for a user.
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    time.sleep(0.3)
    yield "big"
    subprocess.run(
        [str(programs / "ssh"), "-O", "exit", "-o", f"ControlPath={sockets()}/%C", "big"],
        capture_output=True,
        check=False,
    )
    daemon.terminate()
    daemon.communicate()


def sockets() -> str:
    import tempfile

    return f"{tempfile.gettempdir()}/longrun-ssh-{os.getuid()}"


def longrun(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "longrun", *words],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_workstation_starts_jobs_and_sees_them_as_the_cluster_does(desk, host, tmp_path):
    work, desktop = tmp_path / "work", tmp_path / "desktop"
    work.mkdir()
    desktop.mkdir()
    # The login node finds Slurm as its users' shells do.
    python = tmp_path / "python"
    lines = [f"export {name}='{desk.slurm.environment[name]}'" for name in ("PATH", "SLURM_CONF")]
    python.write_text("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} "$@"\n']))
    python.chmod(0o755)
    ssh = {"host": host, "folder": str(work), "python": str(python)}
    cluster = {
        "executor": "slurm",
        "job_dir": str(desk.runs),
        "python": sys.executable,
        "required_env": ["SECRET_OF_TESTS"],
        "ssh": ssh,
    }
    (desktop / "big.yaml").write_text(yaml.safe_dump(cluster))
    there = ("--cluster", "big.yaml")
    missing = longrun(desktop, "status", *there)
    assert "SECRET_OF_TESTS is not set" in missing.stderr
    secret = {"SECRET_OF_TESTS": "tell-nobody"}
    command = "pwd; echo ${#SECRET_OF_TESTS}; sleep 1"
    done = longrun(desktop, "run_cmd", *there, "--expname", "remote", command, **secret)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("remote: job ")
    followed = longrun(desktop, "logs", "remote", "-f", *there, **secret)
    assert followed.stdout == f"{work}\n11\n"
    base = {
        "name": "base",
        "stages": {
            "problems": {
                "verb": "synthesize",
                "num_cot": 5,
                "num_tir": 5,
                "num_genselect": 5,
                "num_held_out": 2,
            }
        },
    }
    (desktop / "base.yaml").write_text(yaml.safe_dump(base))
    (desktop / "far.yaml").write_text("extends: base.yaml\nname: far\n")
    done = longrun(desktop, "run", "far.yaml", "problems.num_cot=6", *there, **secret)
    assert done.returncode == 0, done.stderr
    desk.wait_for("far", problems="done")
    assert "done" in longrun(desktop, "status", "far", *there, **secret).stdout
    wrong = longrun(desktop, "run", "far.yaml", "problems.sed=1", *there, **secret)
    assert wrong.returncode == 2
    assert "did you mean seed?" in wrong.stderr
    assert not (desktop / "runs").exists()
    for path in desk.runs.rglob("*"):
        assert not path.is_file() or b"tell-nobody" not in path.read_bytes()


def test_a_host_that_does_not_answer_is_one_line(desk, tmp_path, monkeypatch):
    if shutil.which("ssh") is None or shutil.which("rsync") is None:
        pytest.skip("ssh or rsync is not installed")
    ssh = {"host": "127.0.0.1", "folder": "/tmp"}
    cluster = {"executor": "slurm", "job_dir": str(desk.runs), "ssh": ssh}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(cluster))
    programs = tmp_path / "programs"
    programs.mkdir()
    port = free_port("127.0.0.1")
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    done = longrun(tmp_path, "status", "--cluster", "far.yaml")
    assert done.returncode == 2
    assert "Connection refused; check that `ssh 127.0.0.1` works" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
