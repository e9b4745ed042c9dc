import subprocess
import sys
import textwrap
import time
from pathlib import Path

PARENT = """
    import os, signal, subprocess, sys
    child = "import os, sys, time; from longrun.formats.processes import die_with_parent;" \\
        "die_with_parent({parent}); print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", child.format(parent=os.getpid())], stdout=subprocess.PIPE
    )
    print(process.stdout.readline().decode().strip(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_when_its_parent_is_killed():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    worker = Path("/proc") / done.stdout.strip()
    end = time.monotonic() + 10
    while worker.exists() and "zombie" not in (worker / "status").read_text():
        assert time.monotonic() < end, "the worker outlived its parent"
        time.sleep(0.02)
