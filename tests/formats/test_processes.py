import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from longrun.formats.processes import release_memory, resident_bytes

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


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc knows how")
def test_memory_between_what_is_still_in_use_is_given_back():
    blocks = [bytes(2_000) for _ in range(40_000)]
    del blocks[::2], blocks[: len(blocks) // 2]  # 10,000 blocks of 2 kB stay, scattered
    held = resident_bytes()
    release_memory()
    assert held - resident_bytes() > 20_000_000
