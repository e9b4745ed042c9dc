import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from longrun.config.evaluation import GenerateConfig
from longrun.errors import InputError
from longrun.evaluation.generation.cached_model import CachedModel
from longrun.evaluation.generation.decoding import ContinuousDecoder
from longrun.evaluation.generation.solutions import Solution
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


def write(model, rows, *, stop_id=2, calls=None, **options):
    """Write all rows; return them in the order in which they finished."""
    decoder = ContinuousDecoder(model, config(**options), stop_id)
    return list(decoder.write(iter(rows), calls))


class Pausing:
    """Stands where code calls stand: a row pauses at some lengths, others go on meanwhile."""

    def __init__(self, lengths, appended, delay=0):
        self.lengths, self.appended, self.delay = lengths, appended, delay
        self.paused = []
        self.most_paused = 0

    def ends_segment(self, solution):
        return len(solution.tokens) in self.lengths

    def begin(self, solution):
        self.paused.append([self.delay, solution])
        self.most_paused = max(self.most_paused, len(self.paused))

    def collect(self, *, wait):
        for entry in self.paused:
            entry[0] = 0 if wait else entry[0] - 1
        done = [solution for left, solution in self.paused if left <= 0]
        self.paused = [entry for entry in self.paused if entry[0] > 0]
        for solution in done:
            solution.tokens += self.appended
        return done


def test_rows_of_all_lengths_write_what_transformers_writes_row_by_row(random_model):
    oracle = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32).eval()
    rows = [begin(prompt, most_tokens=20 + 30 * n) for n, prompt in enumerate(PROMPTS)]
    assert len(write(random_model, rows, batch_size=3)) == len(rows)
    for row in rows:
        prompt = torch.tensor([row.prompt])
        written = oracle.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=row.most_tokens,
        )
        assert row.tokens == written[0, len(row.prompt) :].tolist()
        assert row.finish == ("stop" if row.tokens[-1] == 2 else "length")


def test_a_sample_depends_on_nothing_but_itself(random_model):
    options = {"temperature": 1.0, "top_p": 0.9}
    together = [begin(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    write(random_model, together, **options)
    for seed, prompt in enumerate(PROMPTS):
        (alone,) = write(random_model, [begin(prompt, seed)], **options)
        assert alone.tokens == together[seed].tokens
    assert len({tuple(row.tokens) for row in together}) == len(PROMPTS)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_samples_that_share_a_prompt_are_those_written_alone(random_model, batch_size):
    options = {"temperature": 1.0, "samples": 4}
    rows = [begin(prompt, seed) for prompt in PROMPTS[:3] for seed in range(4)]
    write(random_model, rows, batch_size=batch_size, **options)
    for row in rows:
        seed = rows.index(row) % 4
        (alone,) = write(random_model, [begin(row.prompt, seed)], temperature=1.0)
        assert alone.tokens == row.tokens


def test_a_row_that_ends_makes_room_for_the_next(random_model):
    rows = [begin(PROMPTS[0], most_tokens=bound) for bound in (30, 2, 2, 2, 2)]
    finished = write(random_model, rows, stop_id=-1, batch_size=2)
    assert [row.most_tokens for row in finished] == [2, 2, 2, 2, 30]


@pytest.mark.parametrize("delay", [0, 3, 1000])
def test_a_pause_changes_no_token_and_holds_nobody_up(random_model, delay):
    appended = [9, 30, 5]
    rows = [begin(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    calls = Pausing({4, 17}, appended, delay)
    write(random_model, rows, stop_id=-1, calls=calls, temperature=1.0, batch_size=3)
    assert calls.most_paused > 1
    for seed, row in enumerate(rows):
        pauses = Pausing({4, 17}, appended)
        (alone,) = write(
            random_model, [begin(row.prompt, seed)], stop_id=-1, calls=pauses, temperature=1.0
        )
        assert row.tokens == alone.tokens
        assert row.tokens[4:7] == row.tokens[17:20] == appended


def test_what_was_appended_is_read_as_if_it_had_always_been_there(random_model):
    (row,) = write(random_model, [begin(PROMPTS[0])], stop_id=-1, calls=Pausing({4}, [9, 30, 5]))
    (again,) = write(random_model, [begin([*PROMPTS[0], *row.tokens[:7]])], stop_id=-1)
    assert row.tokens[7:] == again.tokens[: len(row.tokens) - 7]


def test_tokens_that_were_replaced_during_a_pause_are_read_anew(random_model):
    class Replacing(Pausing):
        def collect(self, *, wait):
            done = super().collect(wait=wait)
            for solution in done:
                solution.tokens[2:] = [50, 51, 52]
            return done

    (row,) = write(random_model, [begin(PROMPTS[0])], stop_id=-1, calls=Replacing({4}, []))
    (again,) = write(random_model, [begin([*PROMPTS[0], *row.tokens[:5]])], stop_id=-1)
    assert row.tokens[2:5] == [50, 51, 52]
    assert row.tokens[5:] == again.tokens[: len(row.tokens) - 5]


def test_every_row_ends_at_its_own_bound(random_model):
    rows = [begin(prompt, most_tokens=bound) for bound, prompt in enumerate(PROMPTS, start=1)]
    write(random_model, rows, stop_id=-1)
    for bound, row in enumerate(rows, start=1):
        assert len(row.tokens) == bound or row.finish == "stop"


def test_the_stop_token_ends_a_row_at_once_and_is_kept(random_model):
    (free,) = write(random_model, [begin(PROMPTS[2])])
    stop = free.tokens[6]
    (row,) = write(random_model, [begin(PROMPTS[2])], stop_id=stop)
    assert row.tokens == free.tokens[: free.tokens.index(stop) + 1]
    assert row.finish == "stop"


def test_independence_of_the_batch_is_checked_and_said(random_model, monkeypatch, caplog):
    caplog.set_level("INFO")
    write(random_model, [])
    assert "bits do not depend on the batch" in caplog.text
    monkeypatch.setattr(CachedModel, "is_independent", lambda _: False)
    write(random_model, [])
    assert "rounding depends on the batch" in caplog.text


def test_a_damaged_weights_file_is_named_on_one_line(random_model, tmp_path):
    for path in random_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"model.safetensors: is damaged") as error:
        write(tmp_path, [])
    assert "\n" not in str(error.value)
