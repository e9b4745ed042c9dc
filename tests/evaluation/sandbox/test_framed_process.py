import os
import sys
import time

import pytest

from longrun.evaluation.sandbox.framed_process import WorkerError, WorkerProcess, WorkerStalledError

FRAME = "import sys,struct; f=lambda b: sys.stdout.buffer.write(struct.pack('>I',len(b))+b);"


def start(program):
    return WorkerProcess([sys.executable, "-c", program], {})


@pytest.fixture
def run():
    started = []

    def begin(program):
        started.append(start(program))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()


def test_frames_go_there_and_come_back(run):
    echo = FRAME + "n=struct.unpack('>I',sys.stdin.buffer.read(4))[0]; f(sys.stdin.buffer.read(n))"
    worker = run(echo)
    worker.send({"text": "x" * 200_000}, 10)
    assert worker.receive(10, 300_000) == {"text": "x" * 200_000}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "ended"),
        (FRAME + "f(b'not json')", "not JSON"),
        (FRAME + "f(b'[' * 90)", "not JSON"),
        (FRAME + "f(b'x' * 101)", "announced a reply of 101 bytes; the bound is 100"),
        ("import os; os.write(1, b'\\xff\\xff\\xff\\xff')", "announced a reply of 4294967295"),
        ("import os; os.write(1, b'\\0\\0\\0\\x09cut')", "ended"),
    ],
)
def test_a_bad_reply_is_an_error_that_says_so(run, program, message):
    with pytest.raises(WorkerError, match=message):
        run(program).receive(10, 100)


def test_no_wait_outlasts_its_deadline(run):
    worker = run("import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(WorkerStalledError):
        worker.receive(0.2, 100)
    with pytest.raises(WorkerStalledError):
        worker.send({"text": "x" * 1_000_000}, 0.2)
    assert time.monotonic() - began < 5


def test_a_frame_that_trickles_in_is_cut_off(run):
    worker = run(
        "import os, time\n"
        "os.write(1, b'\\0\\0\\0\\x20')\n"
        "while True: os.write(1, b' '); time.sleep(.1)"
    )
    began = time.monotonic()
    with pytest.raises(WorkerStalledError):
        worker.receive(1.0, 100)
    assert time.monotonic() - began < 5


def test_killing_ends_the_whole_process_group(run):
    worker = run(
        FRAME + "import os,time; p=os.fork();\nif p: f(str(p).encode()); sys.stdout.flush()\n"
        "time.sleep(60)"
    )
    child = worker.receive(10, 100)
    worker.kill()
    deadline = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(child)
    assert worker.kill() == -9, "a second time changes nothing"


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
    finally:
        assert pid != os.getpid()
