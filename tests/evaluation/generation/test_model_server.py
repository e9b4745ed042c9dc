"""A server program that really runs is started, watched and ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longrun.config.evaluation import GenerateConfig, ServerSettings
from longrun.errors import ResourceError
from longrun.evaluation.generation.generate import run
from longrun.evaluation.generation.model_server import ModelServer
from longrun.formats.predictions import read_predictions

STAND_IN = Path(__file__).parents[1] / "stand_in_server.py"
COMMAND = [sys.executable, str(STAND_IN), "--model", "{model}", "--port", "{port}"]


def settings(*arguments, **options):
    values = {"command": COMMAND, "arguments": list(arguments), "start_seconds": 100}
    return ServerSettings(**values | options)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(*pids):
    """Wait until the processes have ended; the kernel takes a moment to end what was killed."""
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"one of {pids} lives on"
        time.sleep(0.05)


def test_a_generation_starts_a_server_for_each_model_and_ends_it(
    tmp_path, random_model, write_benchmark
):
    path = write_benchmark([{"problem": "Find a.", "expected_answer": 1}], "b.jsonl")
    values = {
        "output_dir": str(tmp_path / "out"),
        "models": {"one": str(random_model)},
        "benchmarks": [{"name": "b", "path": str(path)}],
        "max_tokens": 8,
        "engine": "vllm",
        "server": {"command": COMMAND, "start_seconds": 100},
    }
    config = GenerateConfig.parse(values, "generate")
    run(config)
    own = GenerateConfig.parse(
        values | {"output_dir": str(tmp_path / "own"), "engine": "built-in"}, "generate"
    )
    run(own)
    (served,), (written,) = (
        read_predictions(each.output_dir / "one" / "b.jsonl") for each in (config, own)
    )
    assert (served.generation, served.finish) == (written.generation, written.finish)
    assert "listening" in (config.output_dir / "server-one.log").read_text()
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(random_model) not in listing.stdout


def test_a_server_that_dies_is_quoted_when_it_starts_and_later(tmp_path, random_model):
    with pytest.raises(ResourceError, match=r"ended with exit code 2 \(.*--no-such") as error:
        ModelServer("vllm", settings("--no-such"), random_model, "m", tmp_path / "a.log")
    assert "a.log" in str(error.value)
    command = settings("--die-after", "1")
    with ModelServer("vllm", command, random_model, "m", tmp_path / "b.log") as server:
        server.check_alive()
        server._process.wait(60)
        with pytest.raises(ResourceError, match=r"exit code 3 \(out of memory\)"):
            server.check_alive()


def test_a_server_that_never_becomes_healthy_is_ended(tmp_path, random_model):
    sleeper = [sys.executable, "-c", "import time; time.sleep(1000)"]
    command = settings(command=sleeper, start_seconds=1)
    with pytest.raises(ResourceError, match="did not become healthy within 1 seconds"):
        ModelServer("sglang", command, random_model, "m", tmp_path / "a.log")


def test_a_server_that_ignores_the_polite_signal_is_killed_with_its_children(
    tmp_path, random_model, monkeypatch
):
    monkeypatch.setattr("longrun.evaluation.generation.model_server._END_SECONDS", 0.5)
    program = (
        "import signal, subprocess, sys, http.server as h\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '1000']).pid, flush=True)\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        " def do_GET(self): self.send_response(200); self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    command = settings(command=[sys.executable, "-c", program, "{port}"])
    log = tmp_path / "a.log"
    with ModelServer("vllm", command, random_model, "m", log) as server:
        pids = [server.pid, int(log.read_text().split()[0])]
        assert all(map(is_alive, pids))
    assert not is_alive(pids[0])
    wait_for_end(*pids)


def test_a_server_does_not_outlive_a_starter_that_was_killed(tmp_path, random_model):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from longrun.config.evaluation import ServerSettings\n"
        "from longrun.evaluation.generation.model_server import ModelServer\n"
        "command = ServerSettings(command=sys.argv[2:], start_seconds=100)\n"
        "server = ModelServer('vllm', command, Path(sys.argv[1]), 'm', Path(sys.argv[1]) / 'l')\n"
        "print(server.pid, flush=True); time.sleep(1000)"
    )
    serving = "import http.server as h, sys\n" + (
        "class H(h.BaseHTTPRequestHandler):\n"
        " def do_GET(self): self.send_response(200); self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    arguments = [str(tmp_path), sys.executable, "-c", serving, "{port}"]
    starter = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    pid = int(starter.stdout.readline())
    assert is_alive(pid)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    wait_for_end(pid)


def test_a_missing_program_is_named_with_its_package(tmp_path, random_model):
    with pytest.raises(ResourceError, match=r"the program vllm is missing.*pip install vllm"):
        ModelServer("vllm", ServerSettings(), random_model, "m", tmp_path / "a.log")
