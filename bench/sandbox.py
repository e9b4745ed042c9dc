"""Latency and throughput of the sandbox, and leaks over many runs.

    python bench/sandbox.py [--isolation bubblewrap] [--sessions 1000] [--blocks 2000]

Prints one JSON line per figure. Latencies are wall times of this process. ``leaks`` compares file
descriptors, child processes and temporary files before and after all of it. Hostile programs are
run by ``bench/attack.py``.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from longrun.config.evaluation import SandboxSettings
from longrun.evaluation.sandbox.sandbox import Sandbox


def measure_first_blocks(sandbox: Sandbox, count: int, pause: float) -> list[float]:
    """Return milliseconds from opening a session to the result of its first block."""
    times = []
    for _ in range(count):
        time.sleep(pause)
        began = time.perf_counter()
        session = sandbox.open_session()
        assert session.run("6 * 7").text == "42\n"
        times.append(1000 * (time.perf_counter() - began))
        session.close()
    return times


def measure_blocks(sandbox: Sandbox, count: int) -> list[float]:
    """Return milliseconds of further blocks of one session."""
    session, times = sandbox.open_session(), []
    session.run("n = 0")
    for _ in range(count):
        began = time.perf_counter()
        session.run("n += 1")
        times.append(1000 * (time.perf_counter() - began))
    assert session.run("n").text == f"{count}\n"
    session.close()
    return times


def measure_throughput(sandbox: Sandbox, sessions: int) -> float:
    """Return sessions of two blocks per second, as many at a time as there are cores."""
    began = time.perf_counter()
    for start in range(0, sessions, 50):
        opened = [sandbox.open_session() for _ in range(min(50, sessions - start))]
        for code in ("x = 6", "x * 7"):
            done = [sandbox.submit(session, code) for session in opened]
            results = [future.result().text for future in done]
        assert results == ["42\n"] * len(opened)
        for session in opened:
            session.close()
    return sessions / (time.perf_counter() - began)


def count_resources() -> dict[str, int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": sum(parent == os.getpid() for parent in parents.values()),
        "temporary files": len(list(Path(tempfile.gettempdir()).glob("longrun-code-*"))),
    }


def show(figure: str, **values: object) -> None:
    print(json.dumps({"figure": figure, **values}), flush=True)


def show_times(figure: str, times: list[float]) -> None:
    show(
        figure,
        count=len(times),
        median_ms=round(median(times), 2),
        p95_ms=round(quantiles(times, n=20)[-1], 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isolation", default="bubblewrap")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=2000)
    options = parser.parse_args()
    before = count_resources()
    settings = SandboxSettings(isolation=options.isolation)
    with Sandbox(settings) as sandbox:
        began = time.process_time()
        show_times("first block, warm pool", measure_first_blocks(sandbox, 50, 0.3))
        show_times("first block, without a pause", measure_first_blocks(sandbox, 50, 0.0))
        show_times("further block", measure_blocks(sandbox, options.blocks))
        rate = measure_throughput(sandbox, options.sessions)
        cores = len(os.sched_getaffinity(0))
        show("throughput", sessions_per_second=round(rate, 1), cores=cores)
        show("cpu of this process", seconds=round(time.process_time() - began, 1))
    show("leaks", before=before, after=count_resources(), sessions=options.sessions + 101)


if __name__ == "__main__":
    main()
