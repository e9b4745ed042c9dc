"""A real server on this machine, around the built-in generation, that can be told to misbehave."""

import importlib.util
import json
import threading
from pathlib import Path

import pytest

from longrun.config.evaluation import GenerateConfig
from longrun.errors import ConfigError, ResourceError
from longrun.evaluation.generation.endpoint import read_completion
from longrun.evaluation.generation.endpoint_client import _pause
from longrun.evaluation.generation.generate import run
from longrun.formats.predictions import read_predictions

ROWS = [{"problem": f"Let a = {n}, b = {n * n}.", "expected_answer": n} for n in range(4)]
QUICK = {"attempts": 3, "concurrency": 3}


@pytest.fixture(scope="session")
def stand_in():
    path = Path(__file__).parents[1] / "stand_in_server.py"
    spec = importlib.util.spec_from_file_location("stand_in_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(stand_in):
    servers = []

    def start(folder, **options):
        server = stand_in.make_server(folder, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr("longrun.evaluation.generation.endpoint_client._FIRST_PAUSE", 0.01)


@pytest.fixture
def configure(tmp_path, write_benchmark, random_model):
    path = write_benchmark(ROWS, "sums.jsonl")

    def make(name="out", url=None, endpoint=None, **options):
        values = {
            "output_dir": str(tmp_path / name),
            "models": {"base": str(random_model)},
            "benchmarks": [{"name": "sums", "path": str(path)}],
            "max_tokens": 12,
        }
        if url is not None:
            values |= {"engine": "endpoint", "endpoint": QUICK | {"url": url} | (endpoint or {})}
        return GenerateConfig.parse(values | options, "generate")

    return make


def predictions(config, label="base", name="sums"):
    return read_predictions(config.output_dir / label / f"{name}.jsonl")


@pytest.mark.parametrize("send", ["tokens", "text"])
def test_a_server_writes_what_the_built_in_engine_writes(configure, serve, random_model, send):
    own, asked = configure("own"), configure("asked", serve(random_model), {"send": send})
    run(own)
    run(asked)
    assert [row.generation for row in predictions(asked)] == [
        row.generation for row in predictions(own)
    ]
    assert [row.finish for row in predictions(asked)] == [row.finish for row in predictions(own)]


def test_code_is_run_between_requests(configure, serve, tool_user, write_benchmark):
    model, solution, _ = tool_user
    row = {"problem": "Find 6 * 7.", "expected_answer": "42", "total_code_executions": 2}
    options = {
        "models": {"tuned": str(model)},
        "benchmarks": [
            {"name": "tool", "path": str(write_benchmark([row], "tir.jsonl")), "mode": "tir"}
        ],
        "max_tokens": 200,
        "sandbox": {"isolation": "process"},
    }
    own, asked = configure("own", **options), configure("asked", serve(model), **options)
    run(own)
    run(asked)
    (written,) = predictions(asked, "tuned", "tool")
    assert written == predictions(own, "tuned", "tool")[0]
    assert written.generation == "".join(solution)
    assert written.code_calls == 2


@pytest.mark.parametrize("deed", [500, 429, "garbage", "empty", "cut", "hang up"])
def test_a_request_that_fails_is_tried_again(configure, serve, random_model, deed):
    config = configure("asked", serve(random_model, misbehave=[deed] * 2))
    assert run(config).counts["predictions"] == 4


def test_a_solution_that_keeps_failing_is_named_and_only_it_is_asked_for_again(
    configure, serve, random_model, caplog
):
    url = serve(random_model, misbehave=[400])
    config = configure("asked", url, {"concurrency": 1})
    with pytest.raises(ResourceError, match=r"1 of 4 solutions could not be had, .*HTTP 400"):
        run(config)
    assert "HTTP 400" in caplog.text
    assert run(config).counts["predictions"] == 4


def test_failures_that_are_allowed_are_counted(configure, serve, random_model):
    url = serve(random_model, misbehave=["garbage"] * 3)
    config = configure("asked", url, {"concurrency": 1, "max_failed_share": 0.25})
    manifest = run(config)
    assert manifest.counts["predictions"] == 3
    assert manifest.ledger.dropped == {"not given by the endpoint": 1}


@pytest.mark.parametrize("status", [401, 404])
def test_what_every_request_would_get_stops_at_once(configure, serve, random_model, status):
    url = serve(random_model, misbehave=[status] * 10)
    with pytest.raises(ResourceError, match=rf"HTTP {status} .*check"):
        run(configure("asked", url))


def test_nobody_at_the_address_is_said(configure):
    config = configure("asked", "http://127.0.0.1:9/v1")
    with pytest.raises(ResourceError, match=r"4 of 4 solutions could not be had.*refused"):
        run(config)


def test_key_model_seed_and_rate_reach_the_server(
    configure, serve, random_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", "hidden")
    log = tmp_path / "requests.jsonl"
    url = serve(random_model, log=log)
    endpoint = {"api_key_variable": "MY_KEY", "model": "served", "requests_per_minute": 600}
    config = configure("asked", url, endpoint, temperature=0.7, top_p=0.9, samples=2)
    run(config)
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    assert {entry["authorization"] for entry in seen} == {"Bearer hidden"}
    bodies = [entry["body"] for entry in seen]
    assert {(b["model"], b["temperature"], b["top_p"]) for b in bodies} == {("served", 0.7, 0.9)}
    assert len({body["seed"] for body in bodies}) == 8
    times = [entry["time"] for entry in seen]
    assert max(times) - min(times) > 0.6, "eight requests at ten a second"
    assert b"hidden" not in b"".join(
        path.read_bytes() for path in config.output_dir.rglob("*") if path.is_file()
    )


def test_an_endpoint_needs_an_address():
    values = {
        "output_dir": "x",
        "models": {"m": "m"},
        "benchmarks": [{"name": "b", "path": "b"}],
        "engine": "endpoint",
    }
    with pytest.raises(ConfigError, match=r"needs endpoint\.url"):
        GenerateConfig.parse(values, "generate")


@pytest.mark.parametrize(
    "choice",
    [
        {"text": 3, "finish_reason": "stop"},
        {"text": "x", "finish_reason": None},
        {"text": "x"},
    ],
)
def test_answers_of_another_form_are_garbage(choice):
    with pytest.raises((ValueError, KeyError)):
        read_completion({"choices": [choice]})


def test_the_pause_grows_and_heeds_what_the_server_asks_for():
    assert _pause(1, None) < _pause(8, None)
    assert _pause(50, None) <= 60
    assert _pause(1, 7.0) == 7
    assert _pause(1, 9999.0) <= 60
