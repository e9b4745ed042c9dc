import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from longrun.config.stages import GenerateConfig
from longrun.errors import InputError
from longrun.evaluate.decoding import BatchDecoder
from longrun.evaluate.solutions import Solution
from longrun.formats.predictions import Problem

PROMPTS = [[5, 9, 30, 31], [7], [12, 13, 200, 14, 15, 40, 41, 42], [60, 61], [33, 34, 35]]


def begin(prompt, seed=0, most_tokens=40):
    problem = Problem(
        id=str(prompt),
        mode="cot",
        source="",
        problem="",
        expected_answer="1",
        total_code_executions=None,
        candidates=[],
        line=1,
        record={},
    )
    return Solution(problem, 0, prompt, most_tokens, 0, np.random.default_rng(seed))


def config(**options):
    values = {"output_dir": "x", "models": {"m": "m"}, "benchmarks": [{"name": "b", "path": "b"}]}
    return GenerateConfig.parse(values | options, "generate")


def test_a_padded_batch_writes_what_transformers_writes_row_by_row(random_model):
    oracle = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32).eval()
    rows = [begin(prompt) for prompt in PROMPTS]
    BatchDecoder(random_model, config(), stop_id=2).write(rows, lambda _: False)
    for row in rows:
        prompt = torch.tensor([row.prompt])
        written = oracle.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40
        )
        assert row.tokens == written[0, len(row.prompt) :].tolist()
        assert row.finish == ("stop" if row.tokens[-1] == 2 else "length")


def test_a_sample_does_not_depend_on_the_rest_of_its_batch(random_model):
    decoder = BatchDecoder(random_model, config(temperature=1.0, top_p=0.9), stop_id=2)
    together = [begin(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    decoder.write(together, lambda _: False)
    for seed, prompt in enumerate(PROMPTS):
        alone = begin(prompt, seed)
        decoder.write([alone], lambda _: False)
        assert alone.tokens == together[seed].tokens
    assert len({tuple(row.tokens) for row in together}) == len(PROMPTS)


def test_a_row_that_was_interrupted_goes_on_as_if_it_had_not_been(random_model):
    decoder = BatchDecoder(random_model, config(), stop_id=2)
    whole, halves = begin(PROMPTS[0]), begin(PROMPTS[0])
    decoder.write([whole], lambda _: False)
    decoder.write([halves], lambda row: len(row.tokens) == 11)
    assert len(halves.tokens) == 11
    decoder.write([halves], lambda _: False)
    assert halves.tokens == whole.tokens


def test_every_row_ends_at_its_own_bound(random_model):
    rows = [begin(prompt, most_tokens=bound) for bound, prompt in enumerate(PROMPTS, start=1)]
    BatchDecoder(random_model, config(), stop_id=-1).write(rows, lambda _: False)
    for bound, row in enumerate(rows, start=1):
        assert len(row.tokens) == bound or row.finish == "stop"


def test_the_stop_token_ends_a_row_at_once_and_is_kept(random_model):
    free = begin(PROMPTS[2])
    BatchDecoder(random_model, config(), stop_id=2).write([free], lambda _: False)
    stop = free.tokens[6]
    row = begin(PROMPTS[2])
    BatchDecoder(random_model, config(), stop_id=stop).write([row], lambda _: False)
    assert row.tokens == free.tokens[: free.tokens.index(stop) + 1]
    assert row.finish == "stop"


def test_a_damaged_weights_file_is_named_on_one_line(random_model, tmp_path):
    for path in random_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="is not a model that can be loaded") as error:
        BatchDecoder(tmp_path, config(), stop_id=2)
    assert "\n" not in str(error.value)
