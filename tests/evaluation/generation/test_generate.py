import json
import os
import signal
import subprocess
import sys
import time

import pytest

from longrun.config.evaluation import GenerateConfig
from longrun.errors import ConfigError, InputError
from longrun.evaluation.generation.generate import run
from longrun.formats.predictions import read_predictions

ROWS = [
    {
        "problem": f"Let a = {n}, b = {n * n}. Find a + b." + " Think." * (n % 4),
        "expected_answer": n,
    }
    for n in range(12)
]
PROCESS = {"isolation": "process"}
KINDS = [
    *("thinking", "code", "tool_output", "notice"),
    *("code", "tool_output", "notice", "thinking", "answer"),
]


@pytest.fixture
def configure(tmp_path, write_benchmark, random_model):
    path = write_benchmark(ROWS, "sums.jsonl")

    def make(name="out", **options):
        values = {
            "output_dir": str(tmp_path / name),
            "models": {"base": str(random_model)},
            "benchmarks": [{"name": "sums", "path": str(path)}],
            "max_tokens": 24,
            "batch_size": 5,
        }
        return GenerateConfig.parse(values | options, "generate")

    return make


def predictions(config, label="base", name="sums"):
    return read_predictions(config.output_dir / label / f"{name}.jsonl")


def test_every_sample_of_every_problem_is_there_in_order(configure):
    config = configure(samples=2, temperature=1.0)
    manifest = run(config)
    rows = predictions(config)
    assert [(row.id, row.sample) for row in rows] == [
        (f"sums-{line}", sample) for line in range(1, 13) for sample in range(2)
    ]
    assert manifest.counts["predictions"] == manifest.ledger.kept == 24
    assert manifest.outputs.keys() == {"base/sums.jsonl", "models.json"}
    for row in rows:
        assert "".join(text for _, text in row.pieces) == row.generation
        assert row.finish == ("stop" if row.tokens < 24 else row.finish)
    assert rows[0].generation != rows[1].generation


def test_neither_batch_size_nor_other_problems_change_a_sample(configure, write_benchmark):
    together, alone, fewer = (
        configure("together", temperature=0.8, top_p=0.95, samples=2),
        configure("alone", temperature=0.8, top_p=0.95, samples=2, batch_size=1),
        configure(
            "fewer",
            temperature=0.8,
            top_p=0.95,
            benchmarks=[{"name": "sums", "path": str(write_benchmark(ROWS[:3], "few.jsonl"))}],
        ),
    )
    for config in (together, alone, fewer):
        run(config)
    assert predictions(together) == predictions(alone)
    assert predictions(fewer) == [row for row in predictions(together) if row.sample == 0][:3]


def test_the_seed_decides_the_samples(configure):
    configs = [configure(f"s{seed}", temperature=1.0, seed=seed) for seed in (0, 1)]
    for config in configs:
        run(config)
    one, two = map(predictions, configs)
    assert [row.generation for row in one] != [row.generation for row in two]


def test_models_are_sampled_one_after_another_with_the_same_chances(configure, random_model):
    config = configure(models={"a": str(random_model), "b": str(random_model)}, temperature=1.0)
    run(config)
    assert predictions(config, "a") == predictions(config, "b")


def test_a_finished_stage_does_nothing(configure):
    config = configure()
    assert run(config) == run(config)


def test_a_torn_line_is_made_again_and_the_file_is_the_same(configure, monkeypatch):
    whole, torn = configure("whole"), configure("torn")
    run(whole)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("longrun.evaluation.generation.generate.write_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            run(torn)
    path = torn.output_dir / "base" / "sums.unfinished"
    content = path.read_bytes()
    assert content.count(b"\n") == 12
    path.write_bytes(content[: len(content) // 2])
    run(torn)
    final = "base/sums.jsonl"
    assert (torn.output_dir / final).read_bytes() == (whole.output_dir / final).read_bytes()
    assert not path.exists()


def test_killed_at_any_instant_and_run_again_gives_the_same_file(configure):
    options = {"samples": 5, "temperature": 1.0, "batch_size": 2}
    whole, killed = configure("whole", **options), configure("killed", **options)
    program = (
        "import sys; from longrun.config.evaluation import GenerateConfig;"
        " from longrun.evaluation.generation.generate import run;"
        " run(GenerateConfig.model_validate_json(sys.argv[1]))"
    )
    path = killed.output_dir / "base" / "sums.unfinished"
    process = subprocess.Popen([sys.executable, "-c", program, killed.model_dump_json()])
    deadline = time.monotonic() + 50
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert path.exists(), "killed too late: it had finished"
    run(killed)
    run(whole)
    final = "base/sums.jsonl"
    assert (killed.output_dir / final).read_bytes() == (whole.output_dir / final).read_bytes()


def test_a_model_uses_the_tool_as_it_was_trained_to(configure, write_benchmark, tool_user):
    model, solution, num_tokens = tool_user
    row = {"problem": "Find 6 * 7.", "expected_answer": "42", "total_code_executions": 2}
    path = write_benchmark([row | {"id": name} for name in "ab"], "tir.jsonl")
    config = configure(
        models={"tuned": str(model)},
        benchmarks=[{"name": "tool", "path": str(path), "mode": "tir"}],
        max_tokens=200,
        sandbox=PROCESS,
    )
    manifest = run(config)
    for row in predictions(config, "tuned", "tool"):
        assert row.generation == "".join(solution)
        assert [text for _, text in row.pieces] == solution
        assert [kind for kind, _ in row.pieces] == KINDS
        assert (row.finish, row.tokens, row.code_calls, row.code_errors) == (
            "stop",
            num_tokens,
            2,
            0,
        )
    assert manifest.counts["code_calls"] == 4


def test_a_spent_budget_ends_the_solution(configure, write_benchmark, tool_user):
    model, _, _ = tool_user
    row = {"problem": "Find 6 * 7.", "expected_answer": "42", "total_code_executions": 0}
    path = write_benchmark([row], "tir.jsonl")
    config = configure(
        models={"tuned": str(model)},
        benchmarks=[{"name": "tool", "path": str(path), "mode": "tir"}],
        max_tokens=200,
        sandbox=PROCESS,
    )
    run(config)
    (row,) = predictions(config, "tuned", "tool")
    assert (row.finish, row.code_calls) == ("budget", 0)
    assert "</tool_call>" in row.generation


def test_the_bound_on_tokens_counts_tool_output(configure, write_benchmark, tool_user):
    model, _, num_tokens = tool_user
    row = {"problem": "Find 6 * 7.", "expected_answer": "42", "total_code_executions": 2}
    path = write_benchmark([row], "tir.jsonl")
    for bound in (num_tokens - 1, num_tokens // 2, 20):
        config = configure(
            f"bound-{bound}",
            models={"tuned": str(model)},
            benchmarks=[{"name": "tool", "path": str(path), "mode": "tir"}],
            max_tokens=bound,
            sandbox=PROCESS,
        )
        run(config)
        (prediction,) = predictions(config, "tuned", "tool")
        assert prediction.finish == "length"
        assert prediction.tokens <= bound


def test_a_prompt_longer_than_the_model_is_named(configure, write_benchmark):
    rows = [ROWS[0], {"problem": "x" * 5000, "expected_answer": "1"}]
    path = write_benchmark(rows, "long.jsonl")
    config = configure(benchmarks=[{"name": "long", "path": str(path)}])
    with pytest.raises(InputError, match=r"long.jsonl:2: the prompt has \d+ tokens .* 256 pos"):
        run(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": {"a/b": "x"}}, "String should match pattern"),
        ({"models": {}}, "at least 1 item"),
        ({"benchmarks": [{"name": "b", "path": "x"}] * 2}, "two benchmarks are called 'b'"),
    ],
)
def test_settings_that_cannot_work_are_named(configure, options, message):
    with pytest.raises(ConfigError, match=message):
        run(configure(**options))


def test_a_bad_benchmark_is_found_before_a_model_is_loaded(configure, tmp_path, monkeypatch):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + '\n{"problem": ')
    monkeypatch.setattr("longrun.evaluation.generation.generate.ContinuousDecoder", None)
    with pytest.raises(InputError, match=r"bad.jsonl:2: is not valid JSON"):
        run(configure(benchmarks=[{"name": "bad", "path": str(path)}]))


def test_problems_without_an_answer_are_named_counted_and_left_out(
    configure, write_benchmark, caplog
):
    rows = [{"problem": "1", "expected_answer": 1}, {"problem": "2", "id": "unknown"}]
    path = write_benchmark(rows, "some.jsonl")
    config = configure(benchmarks=[{"name": "some", "path": str(path)}], samples=2)
    manifest = run(config)
    assert [row.id for row in predictions(config, name="some")] == ["some-1"] * 2
    assert manifest.counts["problems_without_answer"] == 1
    assert "1 of 2 problems of some have no expected_answer" in caplog.text
    assert "the first is unknown in" in caplog.text
