"""Start one command several times on this machine, as if each were a node of its own.

``python -m longrun.launch.start_nodes N COMMAND...`` sets NODE_RANK for each, deals the GPUs that
CUDA_VISIBLE_DEVICES names, passes signals on, and ends with the first exit code that is not 0.
The command is the one that every node of a cluster runs, so several nodes can be tried anywhere.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

GRACE_SECONDS = 60.0
"""What the other nodes get to end by themselves after one has failed."""


def main(num_nodes: int, command: list[str]) -> int:
    """Run ``command`` on ``num_nodes`` nodes; return 0, or the exit code of the first to fail."""
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, pass_on)
    processes += [
        subprocess.Popen(command, env=_environment(node, num_nodes), stdin=subprocess.DEVNULL)
        for node in range(num_nodes)
    ]
    return _wait(processes)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    failed = 0
    while running := [process for process in processes if process.poll() is None]:
        try:
            running[0].wait(0.1 if failed == 0 else GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            if failed:
                running[0].kill()
        failed = failed or next((p.returncode for p in processes if p.returncode), 0)
    failed = failed or next((p.returncode for p in processes if p.returncode), 0)
    return 128 - failed if failed < 0 else failed


def _environment(node: int, num_nodes: int) -> dict[str, str]:
    environment = {**os.environ, "NODE_RANK": str(node)}
    gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if gpus:
        share = len(gpus) // num_nodes
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[node * share : (node + 1) * share])
    return environment


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
