"""A real Slurm of several nodes on this machine: no services, no root, nothing outside a folder.

Every daemon is a child of the tests, listens on loopback, and is ended by its own process. Nodes
are slurmd processes with their own names and ports; a node that loses its power is its slurmd
and everything below it, killed.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from longrun.formats.processes import die_with_parent

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue")
PATH = os.pathsep.join(["/usr/sbin", "/sbin", os.environ["PATH"]])
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
InactiveLimit=0
KillWait=20
MinJobAge=3600
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=101
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=8 \\
    CoresPerSocket=8 Sockets=1 ThreadsPerCore=1 RealMemory=1600 Gres=gpu:2 State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=REQUEUE
PartitionName=cpu Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=20 PreemptMode=OFF
"""


def missing_programs() -> list[str]:
    """Say what of Slurm is not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class SlurmCluster:
    """Start with ``start``; always end with ``stop``."""

    def __init__(self, folder: Path, num_nodes: int = 3, plugins: str = "") -> None:
        self.folder = folder
        self.nodes = [f"n{index + 1}" for index in range(num_nodes)]
        self.environment = {
            **os.environ,
            "PATH": PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self._daemons: dict[str, subprocess.Popen] = {}
        self._write(plugins)

    def start(self) -> None:
        socket_path = self.folder / "munge/socket"
        munge = ["--foreground", f"--key-file={self.folder}/munge/key", f"--socket={socket_path}"]
        munge += [f"--{name}-file={self.folder}/munge/{name}" for name in ("pid", "log", "seed")]
        self._start("munged", ["munged", *munge])
        self._until(socket_path.exists, "munged")
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self.wait_idle()

    def stop(self) -> None:
        if "slurmctld" in self._daemons:
            if ids := self._ids():
                self.run("scancel", "--full", *ids, check=False)
            with contextlib.suppress(AssertionError):
                self._until(lambda: not self._ids(), "the end of all jobs", seconds=30)
        for node in self.nodes:
            self._kill_all_of(node)
        for name in reversed(list(self._daemons)):
            self._end(name, signal.SIGTERM)

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def start_controller(self) -> None:
        self._start("slurmctld", ["slurmctld", "-D"])
        self._until(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld")

    def stop_controller(self) -> None:
        self._end("slurmctld", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        self._start(node, ["slurmd", "-D", "-N", node])

    def lose_node(self, node: str) -> None:
        """Cut its power: everything on it is gone at once, and nobody is told."""
        self._end(node, signal.SIGKILL)
        self._kill_all_of(node)

    def wait_idle(self) -> None:
        count = str(len(self.nodes))
        self._until(
            lambda: (
                self.run("sinfo", "-h", "-p", "batch", "-t", "idle", "-o", "%D").strip() == count
            ),
            "idle nodes",
            seconds=60,
        )

    def _ids(self) -> list[str]:
        return self.run("squeue", "-h", "-o", "%A", check=False).split()

    def _kill_all_of(self, node: str) -> None:
        """Kill the tasks of our jobs on ``node`` and the step daemons that started them."""
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.folder}/slurm.conf"}
        found = set()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = set(
                    (place / "environ").read_bytes().decode(errors="replace").split("\0")
                )
                if marks <= variables:
                    found.add(int(place.name))
                    parent = int(re.search(r"PPid:\s+(\d+)", (place / "status").read_text())[1])
                    if "slurmstepd" in Path(f"/proc/{parent}/cmdline").read_text():
                        found.add(parent)
        for process in sorted(found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _start(self, name: str, command: list[str]) -> None:
        parent = os.getpid()
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - no threads here
            )

    def _end(self, name: str, number: int) -> None:
        process = self._daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _until(self, condition, what: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            logs = [f.read_text()[-1500:] for f in (self.folder / "log").glob("*")]
            assert time.monotonic() < end, f"waited too long for {what}: {logs}"
            time.sleep(0.05)

    def _write(self, plugins: str) -> None:
        for name in ("state", "spool", "log", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for place in (self.folder, *list(self.folder.parents)[:2]):
            place.chmod(0o755)
        (self.folder / "munge").chmod(0o711)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        first = free_ports(len(self.nodes) + 1)
        config = CONFIG.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            port=first,
            nodes=len(self.nodes),
            first=first + 1,
            last=first + len(self.nodes),
        )
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "plugstack.conf").write_text(plugins)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/tty[0-1]\n")
        major = int(re.search(r"(\d+)\.", self.run("slurmd", "-V"))[1])
        line = "CgroupPlugin=disabled" if major >= 23 else "CgroupAutomount=no"
        (self.folder / "cgroup.conf").write_text(f"{line}\n")


def free_ports(count: int) -> int:
    """Return the first of ``count`` ports in a row that nobody uses.

    Every process begins its search elsewhere: what one has found is taken a moment later.
    """
    places = range(21000, 31000, 50)
    own = os.getpid() % len(places)
    for first in (*places[own:], *places[:own]):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
            return first
    pytest.fail("no free ports")
