"""Fetching with the real client, from a server of this test: in processes of their own, because
the client reads the address of the Hub when it is imported."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longrun.config.benchmarks import Benchmark, known_benchmark
from longrun.errors import ConfigError

spec = importlib.util.spec_from_file_location(
    "hub_server", Path(__file__).with_name("hub_server.py")
)
hub_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub_server)

ROWS = [{"id": n, "problem": f"What is {n}?", "answer": str(n)} for n in range(30)]
FETCH = """
import sys
from longrun.config.benchmarks import Benchmark
from longrun.errors import LongrunError
from longrun.formats.benchmarks import read_benchmark
from longrun.formats.hub import fetch_missing
if "without" in sys.argv:
    sys.modules["huggingface_hub"] = None
try:
    benchmark = Benchmark.model_validate(sys.argv[1])
    fetch_missing([benchmark])
    print(len(read_benchmark(benchmark)), read_benchmark(benchmark)[7].expected_answer)
except LongrunError as error:
    print(f"{type(error).__name__}: {error}")
"""


def parquet(rows):
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target.getvalue()


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def run(tmp_path):
    def run_with(url, *words):
        environment = {
            **os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"),
            "LONGRUN_CACHE": str(tmp_path / "cache"), "no_proxy": "127.0.0.1",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
        )

    return run_with


def place(name):
    hub = known_benchmark(name)["hub"]
    return f"datasets/{hub['dataset']}", hub["file"]


@pytest.mark.parametrize(("name", "write"), [("aime24", parquet), ("aime25", jsonl)])
def test_a_known_benchmark_is_fetched_once_at_its_revision(run, tmp_path, name, write):
    with hub_server.serve({place(name): write(ROWS)}) as (url, asked):
        first = run(url, "-c", FETCH, name)
        assert first.stdout == "30 7\n", first.stderr
        revision = known_benchmark(name)["hub"]["revision"]
        got = [path for method, path in asked if method == "GET" and "/resolve/" in path]
        assert len(got) == 1
        assert f"/resolve/{revision}/" in got[0]
        num_asked = len(asked)
        assert run(url, "-c", FETCH, name).stdout == "30 7\n"
        assert len(asked) == num_asked
    (file,) = (tmp_path / "cache" / "benchmarks").iterdir()
    assert file.name.startswith(f"{name}-{revision[:12]}.")


def test_what_the_hub_does_not_have_names_the_command_and_the_alternative(run, tmp_path):
    with hub_server.serve({}) as (url, _):
        said = run(url, "-c", FETCH, "gsm8k").stdout
    assert said.startswith("ResourceError: openai/gsm8k/main/test-00000-of-00001.parquet cannot")
    assert said.count("\n") == 1
    assert "hf download openai/gsm8k main/test-00000-of-00001.parquet --repo-type dataset" in said
    assert "{name: gsm8k, like: gsm8k, path: FOLDER/main/test-00000-of-00001.parquet}" in said
    assert not list((tmp_path / "cache" / "benchmarks").iterdir())


def test_without_the_extra_it_is_named(run):
    said = run("http://127.0.0.1:9", "-c", FETCH, "aime24", "without").stdout
    assert (
        "huggingface_hub is not installed; pip install huggingface_hub, or where there is" in said
    )


def test_the_stage_fetch_gets_the_files_of_a_split(run, tmp_path):
    files = {
        ("datasets/own/problems", "data/cot-00000-of-00001.parquet"): parquet(ROWS),
        ("datasets/own/problems", "data/tir-00000-of-00001.parquet"): parquet(ROWS[:3]),
    }
    with hub_server.serve(files) as (url, _):
        done = run(
            url, "-m", "longrun", "fetch", "dataset=own/problems", "splits=[tir]",
            f"output_dir={tmp_path / 'out'}",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out" / "tir").num_rows == 3
    assert not (tmp_path / "out" / "cot").exists()


def test_a_named_file_is_never_fetched(tmp_path):
    entry = Benchmark.model_validate({"name": "x", "like": "aime24", "path": tmp_path / "x.jsonl"})
    assert entry.hub is None
    assert entry.problems == 30


def test_saved_settings_know_their_place(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRUN_CACHE", str(tmp_path))
    entry = Benchmark.model_validate("gsm8k")
    assert entry.path.parent == tmp_path / "benchmarks"
    assert Benchmark.model_validate(entry.model_dump(mode="json")) == entry


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("aime42", "benchmark 'aime42' is neither known nor a file"),
        ("comp-math-24-25", "path is required, as in .*no place on the Hub"),
        ({"name": "own"}, "benchmark own: path is required"),
        ({"name": "own", "hub": {"dataset": "a/b", "file": "x.csv"}}, "file"),
    ],
)
def test_a_benchmark_that_is_nowhere_is_refused(value, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        Benchmark.model_validate(value)
