"""Stage ``generate``: sample solutions of benchmark problems from one or more models.

For each model and benchmark, prompts are sorted by length into batches; a batch is written in
rounds (see ``decoding``) with its code calls run between rounds (``code_calls``). Finished batches
are appended to ``LABEL/BENCHMARK.unfinished`` and survive a kill; when all are there, the
sorted predictions are put in place as ``LABEL/BENCHMARK.jsonl``. A run that was killed and started
again writes the same bytes as one that was not, as long as code and machine are deterministic.

Greedy or sampled, a solution depends on the model, its problem, its sample number and the seed.
Other problems in the batch change it only through rounding; so may another ``batch_size``.
It never grades.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from longrun.config.stages import Benchmark, GenerateConfig
from longrun.errors import ConfigError, InputError
from longrun.evaluate.code_calls import CodeCalls
from longrun.evaluate.decoding import BatchDecoder
from longrun.evaluate.prompting import CONFIG_NAME, Prompter, check_model_folder, find_conversation
from longrun.evaluate.sandbox import Sandbox
from longrun.evaluate.solutions import Solution
from longrun.evaluate.unfinished import UnfinishedPredictions
from longrun.formats.atomic import write_text
from longrun.formats.ledger import Ledger
from longrun.formats.manifest import Manifest
from longrun.formats.predictions import (
    MODELS_NAME,
    Prediction,
    Problem,
    read_benchmark,
    read_predictions,
    write_rows,
)
from longrun.formats.progress import Progress, show_progress
from longrun.formats.stage import open_stage

log = logging.getLogger(__name__)
Problems = dict[str, list[Problem]]


def run(config: GenerateConfig) -> Manifest:
    """Sample ``config.samples`` solutions of every problem from every model.

    Raises:
        ConfigError: two models have one label, or no conversation is known.
        InputError: a model folder or benchmark cannot be used as it is.
        ResourceError: the sandbox that the benchmarks need does not work here.
    """
    with open_stage("generate", config) as stage, ExitStack() as stack:
        if stage.finished is not None:
            return stage.finished
        problems = {entry.name: read_benchmark(entry) for entry in config.benchmarks}
        models = _find_models(config)
        prompters = {label: _open_prompter(config, folder) for label, folder in models.items()}
        for prompter in prompters.values():
            _check_prompts(prompter, config, problems)
        needs_sandbox = any(row.mode == "tir" for rows in problems.values() for row in rows)
        sandbox = stack.enter_context(Sandbox(config.sandbox)) if needs_sandbox else None
        total = len(models) * config.samples * sum(map(len, problems.values()))
        with show_progress("generate", total, "solutions") as progress:
            for label, prompter in prompters.items():
                writer = _Writer(config, models[label], prompter, sandbox)
                for entry in config.benchmarks:
                    path = stage.folder / label / f"{entry.name}.jsonl"
                    writer.generate(entry, problems[entry.name], path, progress)
        write_text(stage.folder / MODELS_NAME, json.dumps(list(models)))
        rows = _read_all(stage.folder, models, config)
        ledger = Ledger()
        ledger.take(total)
        ledger.keep(len(rows), tokens=sum(row.tokens for row in rows))
        return stage.finish(counts=_count(rows), ledger=ledger)


class _Writer:
    """One model; its weights are loaded when the first solution is missing."""

    def __init__(
        self, config: GenerateConfig, model: Path, prompter: Prompter, sandbox: Sandbox | None
    ) -> None:
        self._config = config
        self._model = model
        self._prompter = prompter
        self._decoder: BatchDecoder | None = None
        self._calls = None
        if sandbox is not None:
            style = prompter.conversation.code
            self._calls = CodeCalls(style, sandbox, prompter.encode, prompter.decode)

    def generate(
        self, benchmark: Benchmark, problems: Sequence[Problem], path: Path, progress: Progress
    ) -> None:
        """Write ``path``, continuing what an earlier run left."""
        unfinished = UnfinishedPredictions(path.with_suffix(".unfinished"))
        if path.exists():
            unfinished.remove()
            progress.advance(len(problems) * self._config.samples)
            return
        done = {(row.id, row.sample) for row in unfinished.found}
        progress.advance(len(done))
        rows = list(unfinished.found)
        for batch in self._batches(benchmark, problems, done):
            predictions = self._write_batch(batch)
            unfinished.add(predictions)
            rows += predictions
            progress.advance(len(batch))
        order = {problem.id: index for index, problem in enumerate(problems)}
        rows.sort(key=lambda row: (order[row.id], row.sample))
        write_rows(path, rows)
        unfinished.remove()

    def _batches(
        self, benchmark: Benchmark, problems: Sequence[Problem], done: set[tuple[str, int]]
    ) -> Iterator[list[Solution]]:
        """Yield missing solutions, longest prompts first: what needs most memory fails at once."""
        prompts = [
            (problem, self._prompter.encode_prompt(problem, benchmark.path)) for problem in problems
        ]
        missing = [
            (problem, sample, prompt)
            for problem, prompt in sorted(prompts, key=lambda entry: -len(entry[1]))
            for sample in range(self._config.samples)
            if (problem.id, sample) not in done
        ]
        for start in range(0, len(missing), self._config.batch_size):
            batch = missing[start : start + self._config.batch_size]
            yield [self._begin(benchmark, *entry) for entry in batch]

    def _begin(
        self, benchmark: Benchmark, problem: Problem, sample: int, prompt: list[int]
    ) -> Solution:
        room = self._loaded().max_positions - len(prompt)
        if room < 1:
            raise InputError.at(
                benchmark.path,
                problem.line,
                f"the prompt has {len(prompt)} tokens and the model {self._model} has"
                f" {len(prompt) + room} positions; leave the problem out or extend the model",
            )
        identity = f"{self._config.seed} {benchmark.name} {problem.id} {sample}"
        digest = hashlib.sha256(identity.encode()).digest()
        return Solution(
            problem=problem,
            sample=sample,
            prompt=prompt,
            most_tokens=min(room, self._config.max_tokens),
            calls_left=self._prompter.budget(problem),
            rng=np.random.default_rng(int.from_bytes(digest[:16])),
        )

    def _write_batch(self, batch: Sequence[Solution]) -> list[Prediction]:
        decoder = self._loaded()
        plain = [solution for solution in batch if solution.problem.mode != "tir"]
        coding = [solution for solution in batch if solution.problem.mode == "tir"]
        if plain:
            decoder.write(plain, lambda _: False)
        if coding and self._calls is not None:
            self._write_with_code(decoder, coding, self._calls)
        for solution in batch:
            self._close(decoder, solution)
        return [solution.as_prediction() for solution in batch]

    def _write_with_code(
        self, decoder: BatchDecoder, batch: Sequence[Solution], calls: CodeCalls
    ) -> None:
        """Write in rounds; every session ends with its solution, whatever happens."""
        going = list(batch)
        try:
            while going:
                decoder.write(going, calls.ends_segment)
                calls.answer([solution for solution in going if solution.finish is None])
                going = [solution for solution in going if solution.finish is None]
        finally:
            for solution in batch:
                calls.close(solution)

    def _close(self, decoder: BatchDecoder, solution: Solution) -> None:
        """Take the last segment into the parts, without the stop token."""
        segment = solution.segment
        if segment and segment[-1] in decoder.stop_ids:
            segment = segment[:-1]
        solution.append([(None, self._prompter.decode(segment))], solution.segment)

    def _loaded(self) -> BatchDecoder:
        if self._decoder is None:
            log.info("generate: loading %s", self._model)
            self._decoder = BatchDecoder(self._model, self._config, self._prompter.stop_id)
        return self._decoder


def _open_prompter(config: GenerateConfig, folder: Path) -> Prompter:
    check_model_folder(folder)
    conversation = find_conversation(folder, config.conversation)
    return Prompter(folder, conversation, config.max_code_executions)


def _check_prompts(prompter: Prompter, config: GenerateConfig, problems: Problems) -> None:
    """Render every prompt before any model is loaded: a bad row costs seconds, not hours."""
    for entry in config.benchmarks:
        for problem in problems[entry.name]:
            prompter.encode_prompt(problem, entry.path)
        first_of_mode = {problem.mode: problem for problem in reversed(problems[entry.name])}
        for problem in first_of_mode.values():
            prompter.check_chat_template(problem)


def _find_models(config: GenerateConfig) -> dict[str, Path]:
    """Return label -> folder; a folder of model folders gives one label for each.

    Raises:
        ConfigError: a label occurs twice.
    """
    models: dict[str, Path] = {}
    for label, folder in config.models.items():
        inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))
        alone = (folder / CONFIG_NAME).is_file() or not inside
        for name, path in {label: folder}.items() if alone else [(p.name, p) for p in inside]:
            if name in models:
                raise ConfigError(
                    f"generate.models: {path} and {models[name]} are both called {name};"
                    " give them different labels"
                )
            models[name] = path
    return models


def _read_all(folder: Path, labels: Iterable[str], config: GenerateConfig) -> list[Prediction]:
    return [
        row
        for label in labels
        for entry in config.benchmarks
        for row in read_predictions(folder / label / f"{entry.name}.jsonl")
    ]


def _count(rows: Iterable[Prediction]) -> dict[str, float]:
    kept = list(rows)
    return {
        "predictions": len(kept),
        "tokens": sum(row.tokens for row in kept),
        "code_calls": sum(row.code_calls for row in kept),
        "code_errors": sum(row.code_errors for row in kept),
        "unfinished": sum(row.finish != "stop" for row in kept),
    }
