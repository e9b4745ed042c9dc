"""Tokens per CPU-second of the built-in generation against transformers on the same model.

    python bench/generate_cpu.py [--size tiny|small] [--rows 128] [--batch-size 32] [--repeats 3]

The same random model, the same prompts, greedy decoding, and for every prompt a length of its own
(log-normal, as solutions have), at which its row ends in all three. Contenders:

* ``longrun``: ContinuousDecoder, rows enter and leave;
* ``generate``: transformers' ``generate`` on batches sorted by prompt length, left padding, a row
  is done at its own length (a stopping criterion), the batch when its longest row is;
* ``continuous``: transformers' ``generate_batch`` with its paged cache, stopped at a time limit.

Times are CPU times of the process, in turns, the best of ``--repeats``; tokens that rows wrote
after their end do not count. The texts are compared: greedy, they must be equal.
"""

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.generation import StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from longrun.config.evaluation import GenerateConfig
from longrun.evaluation.generation.decoding import ContinuousDecoder
from longrun.evaluation.generation.solutions import Solution
from longrun.formats.predictions import Problem

SIZES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "vocab": 1024},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab": 8192},
}
LIMIT_SECONDS = 240
Texts = list[list[int]]


def make_model(folder: Path, size: str) -> None:
    torch.manual_seed(0)
    shape = dict(SIZES[size])
    config = Qwen2Config(
        vocab_size=shape.pop("vocab"),
        num_attention_heads=shape["hidden_size"] // 32,
        num_key_value_heads=max(2, shape["hidden_size"] // 128),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **shape,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def draw_work(rows: int, vocab_size: int) -> tuple[Texts, list[int]]:
    rng = np.random.default_rng(0)
    prompts = [
        rng.integers(1, vocab_size, length).tolist() for length in rng.integers(10, 60, rows)
    ]
    lengths = np.clip(rng.lognormal(np.log(80), 0.8, rows), 8, 600).astype(int)
    return prompts, lengths.tolist()


def run_longrun(folder: Path, prompts: Texts, lengths: list[int], batch_size: int) -> Texts:
    config = GenerateConfig.parse(
        {
            "output_dir": "unused",
            "models": {"m": str(folder)},
            "benchmarks": [{"name": "b", "path": "unused"}],
            "batch_size": batch_size,
        },
        "bench",
    )
    decoder = ContinuousDecoder(folder, config, stop_id=-1)
    solutions = [
        Solution(_problem(index), 0, prompt, length, 0, np.random.default_rng(0))
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    list(decoder.write(iter(sorted(solutions, key=lambda one: -len(one.prompt)))))
    return [solution.tokens for solution in solutions]


class OwnLength(StoppingCriteria):
    """Every row ends at its own length."""

    def __init__(self, ends: torch.Tensor) -> None:
        self._ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Return whether each row is done."""
        return input_ids.shape[1] >= self._ends


def run_generate(folder: Path, prompts: Texts, lengths: list[int], batch_size: int) -> Texts:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    texts: Texts = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = len(prompts[batch[0]])
        tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for place, index in enumerate(batch):
            tokens[place, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[place, longest - len(prompts[index]) :] = 1
        ends = torch.tensor([longest + lengths[index] for index in batch])
        written = model.generate(
            tokens,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(lengths[index] for index in batch),
            stopping_criteria=StoppingCriteriaList([OwnLength(ends)]),
        )
        for place, index in enumerate(batch):
            texts[index] = written[place, longest : longest + lengths[index]].tolist()
    return texts


def run_continuous(folder: Path, prompts: Texts, lengths: list[int], batch_size: int) -> Texts:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="paged|sdpa"
    ).eval()
    config = GenerationConfig(do_sample=False, max_new_tokens=max(lengths), eos_token_id=-1)
    with model.continuous_batching_context_manager(generation_config=config) as manager:
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            manager.add_request(prompt, request_id=str(index), max_new_tokens=length)
        texts: Texts = [[] for _ in prompts]
        left = len(prompts)
        while left:
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                texts[int(result.request_id)] = list(result.generated_tokens)
                left -= 1
    return texts


def measure(run: Callable[[], Texts]) -> tuple[float, float, Texts]:
    """Return CPU seconds, wall seconds and what was written."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        texts = run()
    finally:
        signal.alarm(0)
    return time.process_time() - cpu, time.perf_counter() - wall, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    contenders = {
        "generate": run_generate,
        "longrun": run_longrun,
        "continuous": run_continuous,
    }
    contenders = {name: run for name, run in contenders.items() if name not in options.without}
    best: dict[str, tuple[float, float]] = {}
    texts: dict[str, Texts] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, options.size)
        prompts, lengths = draw_work(options.rows, SIZES[options.size]["vocab"])
        arguments = folder, prompts, lengths, options.batch_size
        for _ in range(options.repeats):
            for contender, run in contenders.items():
                try:
                    cpu, wall, texts[contender] = measure(lambda run=run: run(*arguments))
                except (TimeoutError, RuntimeError, TypeError, AttributeError) as error:
                    print(f"{contender}: gave nothing ({type(error).__name__}: {error})"[:200])
                    continue
                best[contender] = min(best.get(contender, (cpu, wall)), (cpu, wall))
    total = sum(lengths)
    print(f"{options.size}, {options.rows} rows, batch {options.batch_size}, {total} tokens")
    for contender, (cpu, wall) in best.items():
        same = sum(a == b for a, b in zip(texts[contender], texts["generate"], strict=True))
        row = {
            "contender": contender,
            "tokens_per_cpu_second": round(total / cpu),
            "cpu_seconds": round(cpu, 2),
            "wall_seconds": round(wall, 2),
            "equal_texts": f"{same}/{len(prompts)}",
            "times_generate": round(best["generate"][0] / cpu, 2),
        }
        print(json.dumps(row))


def _problem(index: int) -> Problem:
    return Problem(
        id=str(index),
        mode="cot",
        source="",
        problem="",
        expected_answer="1",
        total_code_executions=None,
        candidates=[],
        line=1,
        record={},
    )


if __name__ == "__main__":
    main()
