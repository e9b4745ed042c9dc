"""The commands of the reference that generate and evaluate become these stages."""

from pathlib import Path

import pytest

from longrun.config.commands import Place, build_recipe, read_named, read_words
from longrun.config.recipe import Recipe
from longrun.errors import ConfigError

MODEL = ["--output_dir=/o", "--model=/m/model-hf", "--server_gpus=8"]


def recipe_of(verb: str, *words: str) -> Recipe:
    return build_recipe(read_words(verb, [*MODEL, *words]), Place(), Path("/runs"))


def test_eval_grades_greedy_and_sampled_solutions_apart():
    recipe = recipe_of("eval", "--benchmarks", "gsm8k:4,math-500:0,/b/mine.jsonl")
    edges = {stage.name: stage.after for stage in recipe.stages}
    assert edges == {
        "generate-greedy": (),
        "evaluate-greedy": ("generate-greedy",),
        "generate-4": (),
        "evaluate-4": ("generate-4",),
    }
    greedy, sampled = (recipe.stage(f"generate-{name}").config for name in ("greedy", "4"))
    assert [one.name for one in greedy.benchmarks] == ["gsm8k", "math-500", "mine"]
    assert [one.name for one in sampled.benchmarks] == ["gsm8k"]
    assert (greedy.samples, greedy.temperature) == (1, 0.0)
    assert (sampled.samples, sampled.temperature, sampled.top_p) == (4, 0.7, 0.95)
    assert greedy.models == {"model-hf": Path("/m/model-hf")}
    assert (greedy.engine, greedy.max_tokens) == ("built-in", 2048)
    assert recipe.name == "eval"


def test_one_set_of_solutions_needs_no_name():
    recipe = recipe_of("eval", "--benchmarks=gsm8k:0")
    assert [stage.name for stage in recipe.stages] == ["generate", "evaluate"]
    assert recipe.stage("evaluate").config.output_dir == Path("/o/eval-results")
    skipping = recipe_of("eval", "--benchmarks=gsm8k:2,math-500", "--skip_greedy")
    assert [one.name for one in skipping.stage("generate").config.benchmarks] == ["gsm8k"]


def test_inference_settings_reach_what_samples():
    recipe = recipe_of(
        "eval",
        *("--benchmarks=gsm8k:2", "--starting_seed=5", "++inference.temperature=0.6"),
        *("++inference.top_p=0.9", "++inference.tokens_to_generate=99", "++batch_size=7"),
        *("++prompt_config=openmath/tir", "++max_samples=3", "++prompt_template=qwen-instruct"),
        *("++server.code_execution.max_code_executions=6", "batch_size=9"),
    )
    greedy, sampled = (recipe.stage(f"generate-{name}").config for name in ("greedy", "2"))
    assert (sampled.temperature, sampled.top_p, sampled.seed) == (0.6, 0.9, 5)
    assert (greedy.temperature, greedy.max_tokens, greedy.max_code_executions) == (0.0, 99, 6)
    assert {(one.mode, one.limit) for one in greedy.benchmarks} == {("tir", 3)}
    assert greedy.batch_size == sampled.batch_size == 9


def test_a_server_is_spread_over_its_gpus():
    recipe = recipe_of(
        "eval", "--benchmarks=gsm8k", "--server-type=vllm", "--server_args=--max-model-len 9"
    )
    config = recipe.stage("generate").config
    assert config.engine == "vllm"
    assert config.server.arguments == ["--max-model-len", "9", "--tensor-parallel-size", "8"]
    assert recipe.jobs["generate"].num_gpus == 8
    assert "evaluate" not in recipe.jobs


def test_a_server_that_runs_is_asked():
    words = ("--benchmarks=gsm8k", "--server_type=openai", "--server_address=host:5000")
    config = recipe_of("eval", *words).stage("generate").config
    assert (config.engine, config.endpoint.url) == ("endpoint", "http://host:5000/v1")


def test_chunks_are_stages_that_the_evaluation_joins():
    recipe = recipe_of(
        "eval", "--benchmarks=gsm8k", "--num_chunks=2", "evaluate.rewards=[/r.jsonl]"
    )
    assert [stage.config.chunk for stage in recipe.stages if stage.verb == "generate"] == [
        "1/2",
        "2/2",
    ]
    evaluate = recipe.stage("evaluate").config
    folder = Path("/o/generations")
    assert evaluate.predictions == [folder / f"chunk-{number}-of-2" for number in (1, 2)]
    assert evaluate.rewards == [Path("/r.jsonl")]


def test_generate_samples_as_often_as_there_are_seeds():
    recipe = recipe_of("generate", "++input_file=/b/mine.jsonl", "--num_random_seeds=3")
    config = recipe.stage("generate").config
    assert (config.samples, config.temperature, config.output_dir) == (3, 0.7, Path("/o"))
    assert recipe_of("generate", "++dataset=gsm8k").stage("generate").config.samples == 1


def test_python_takes_the_same_names():
    named = {
        "model": "/m",
        "output_dir": Path("/o"),
        "benchmarks": ["gsm8k:2"],
        "skip_greedy": True,
    }
    recipe = build_recipe(read_named("eval", [""], named), Place(), Path("/runs"))
    assert recipe.stage("generate").config.samples == 2


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("eval", [], "--benchmarks is required"),
        ("eval", ["--benchmarks=gsm8k", "--split=train"], "only test or None"),
        ("eval", ["--benchmarks=gsm8k", "--skip_greedy"], "leaves nothing to do"),
        ("eval", ["--benchmarks=gsm9k"], "did you mean gsm8k"),
        ("eval", ["--benchmarks=,"], "is not a list of benchmarks"),
        ("eval", ["--benchmarks=gsm8k", "--server_type=tpu"], "is not one of vllm"),
        ("eval", ["--benchmarks=gsm8k", "--num_chunks=0"], "must be a number of 1 or more"),
        ("eval", ["--benchmarks=gsm8k", "++inference.top_k=40"], "only 0 or -1"),
        ("eval", ["--benchmarks=gsm8k", "++prompt_config=mine"], "conversation=FOLDER_OF_PREPARE"),
        ("eval", ["--benchmarks=gsm8k", "--chunk_ids=1"], "what is done is left alone"),
        ("generate", ["--benchmarks=gsm8k", "--random_seeds=1,3"], "say --num_random_seeds"),
        ("generate", ["--benchmarks=gsm8k", "++inference.temprature=1"], "inference.temperature"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(verb, words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        recipe_of(verb, *words)
    assert "\n" not in str(caught.value)


def test_a_group_of_settings_is_not_taken_for_one_of_the_reference():
    wanted = read_words("generate", ["sandbox.isolation=process", "endpoint.url=http://a/v1"])
    assert wanted.settings == {
        "sandbox": {"isolation": "process"},
        "endpoint": {"url": "http://a/v1"},
    }
