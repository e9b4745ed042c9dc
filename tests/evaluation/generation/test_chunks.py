import json

import pytest

from longrun.config.evaluation import EvaluateConfig, GenerateConfig
from longrun.errors import ConfigError, InputError
from longrun.evaluation.generation.chunks import find_predictions, read_joined, split_chunk
from longrun.evaluation.generation.generate import run
from longrun.evaluation.scores.evaluate import run as evaluate

ROWS = [{"problem": f"Let a = {n}. Find a.", "expected_answer": n} for n in range(7)]


@pytest.fixture
def configure(tmp_path, write_benchmark, random_model):
    path = write_benchmark(ROWS, "sums.jsonl")

    def make(name, **options):
        values = {
            "output_dir": str(tmp_path / name),
            "models": {"base": str(random_model)},
            "benchmarks": [{"name": "sums", "path": str(path)}],
            "max_tokens": 6,
            "samples": 2,
            "temperature": 1.0,
        }
        return GenerateConfig.parse(values | options, "generate")

    return make


def score(tmp_path, name, *configs):
    folders = [str(config.output_dir) for config in configs]
    values = {"output_dir": str(tmp_path / name), "predictions": folders}
    config = EvaluateConfig.parse(values, "evaluate")
    evaluate(config)
    return {
        path.relative_to(config.output_dir): path.read_bytes()
        for path in config.output_dir.rglob("*")
        if path.name in ("sums.jsonl", "summary.json", "summary.md")
    }


def test_chunks_of_many_jobs_score_exactly_as_one_job(tmp_path, configure):
    whole = configure("whole")
    chunks = [configure(f"chunk-{n}", chunk=f"{n}/3") for n in (1, 2, 3)]
    for config in (whole, *chunks):
        run(config)
    rows = [
        json.loads(line)["id"]
        for line in (chunks[1].output_dir / "base" / "sums.jsonl").read_text().splitlines()
    ]
    assert rows == ["sums-2", "sums-2", "sums-5", "sums-5"]
    in_order = score(tmp_path, "a", *chunks)
    assert in_order == score(tmp_path, "b", whole)
    assert in_order == score(tmp_path, "c", *reversed(chunks))


def test_more_chunks_than_problems_are_no_error(tmp_path, configure):
    chunks = [configure(f"chunk-{n}", chunk=f"{n}/9") for n in range(1, 10)]
    for config in chunks:
        run(config)
    files = find_predictions([config.output_dir for config in chunks])
    assert len(read_joined(files["base", "sums"])) == 14


def test_a_missing_chunk_is_named(configure):
    chunks = [configure(f"chunk-{n}", chunk=f"{n}/4") for n in (2, 4)]
    for config in chunks:
        run(config)
    with pytest.raises(InputError, match=r"chunks 1/4, 3/4 of base on sums are missing"):
        find_predictions([config.output_dir for config in chunks])


def test_chunks_of_different_generations_are_not_mixed(configure):
    chunks = [configure(f"chunk-{n}", chunk=f"{n}/2", seed=n) for n in (1, 2)]
    for config in chunks:
        run(config)
    with pytest.raises(InputError, match="is a chunk of another generation"):
        find_predictions([config.output_dir for config in chunks])


def test_the_same_chunk_twice_is_refused(configure):
    chunks = [configure(f"again-{n}", chunk="1/2") for n in (1, 2)]
    for config in chunks:
        run(config)
    with pytest.raises(InputError, match=r"also in .*different labels"):
        find_predictions([config.output_dir for config in chunks])


@pytest.mark.parametrize("chunk", ["0/2", "3/2", "1", "a/b"])
def test_a_chunk_that_does_not_exist_is_refused(configure, chunk):
    with pytest.raises(ConfigError, match="chunk"):
        configure("x", chunk=chunk)


def test_a_chunk_says_its_place():
    assert split_chunk("2/8") == (2, 8)
