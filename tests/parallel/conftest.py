"""Run a script on several real gloo processes that meet on the loopback interface only."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

import longrun

HERE = Path(__file__).parent / "ranks"
TIME_LIMIT_SECONDS = 280


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    """Return what torchrun would set; the store lives in this process, so no port is guessed."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(longrun.__file__).parents[1]),
    }


def _wait(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all; when one fails, or time is up, end the others. Return what each one said."""
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    try:
        while any(process.poll() is None for process in processes):
            failed = any(process.poll() for process in processes)
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
    return [process.communicate()[0] for process in processes]


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory) -> Callable[..., list[Any]]:
    """Return ``run(script, size, *arguments)``: what ``script``'s ``run`` returned on each rank."""

    def run(script: str, size: int, *arguments: Any, compiles: bool = False) -> list[Any]:
        folder = tmp_path_factory.mktemp("ranks")
        torch.save(arguments, folder / "arguments")
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        # torch's compiler warns about itself.
        warnings = [] if compiles else ["-W", "error"]
        command = [sys.executable, *warnings, HERE / "main.py", HERE / script, folder]
        processes = [
            subprocess.Popen(
                command,
                env=_environment(rank, size, store.port),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]
        said = _wait(processes)
        codes = [process.returncode for process in processes]
        assert not any(codes), f"exit codes {codes}\n" + "\n".join(said)
        return [torch.load(folder / str(rank), weights_only=False) for rank in range(size)]

    return run
