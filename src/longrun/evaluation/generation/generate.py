"""Stage ``generate``: sample solutions of benchmark problems from one or more models.

For each model and benchmark the missing solutions are written continuously (see ``decoding``), with
their code calls beside (``code_calls``). A finished solution is appended to
``LABEL/BENCHMARK.unfinished`` at once and survives a kill; when all are there, the sorted
predictions are put in place as ``LABEL/BENCHMARK.jsonl``.

Greedy or sampled, a solution depends on the model, its problem, its sample number and the seed, and
on nothing else (see ``decoding`` for where that is exact). So a run that was killed and started
again writes the same bytes as one that was not, as long as the code that it runs is deterministic.
It never grades.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from longrun.checkpoint.model_folder import CONFIG_NAME
from longrun.config.benchmarks import Benchmark
from longrun.config.evaluation import GenerateConfig
from longrun.errors import ConfigError, InputError, ResourceError
from longrun.evaluation.generation.chunks import split_chunk
from longrun.evaluation.generation.code_calls import CodeCalls
from longrun.evaluation.generation.decoding import ContinuousDecoder
from longrun.evaluation.generation.endpoint import EndpointDecoder
from longrun.evaluation.generation.endpoint_client import EndpointClient
from longrun.evaluation.generation.model_server import ModelServer
from longrun.evaluation.generation.prompting import Prompter, check_model_folder, find_conversation
from longrun.evaluation.generation.solutions import Failure, Solution
from longrun.evaluation.generation.unfinished import UnfinishedPredictions
from longrun.evaluation.sandbox.sandbox import Sandbox
from longrun.formats.benchmarks import read_benchmark
from longrun.formats.closes import Closes
from longrun.formats.hub import fetch_missing
from longrun.formats.predictions import (
    MODELS_NAME,
    Prediction,
    Problem,
    read_predictions,
    write_rows,
)
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import Progress, show_progress
from longrun.formats.stages.stage import open_stage

log = logging.getLogger(__name__)
Problems = dict[str, list[Problem]]
Missing = tuple[Problem, int, list[int]]
"""A problem, the number of a sample, and the tokens of the prompt."""


class Engine(Protocol):
    """What writes solutions."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a solution."""

    @property
    def failures(self) -> Sequence[Failure]:
        """Solutions that could not be had so far."""

    def write(self, waiting: Iterator[Solution], calls: CodeCalls | None) -> Iterator[Solution]:
        """Yield every solution when it has finished."""


def run(config: GenerateConfig) -> Manifest:
    """Sample ``config.samples`` solutions of every problem from every model.

    Raises:
        ConfigError: two models have one label, or no conversation is known.
        InputError: a model folder or benchmark cannot be used as it is.
        ResourceError: the sandbox that the benchmarks need does not work here, or a benchmark
            cannot be fetched.
    """
    fetch_missing(config.benchmarks)
    with open_stage("generate", config) as stage, ExitStack() as stack:
        if stage.finished is not None:
            return stage.finished
        problems, num_unknown = _read_problems(config)
        models = _find_models(config)
        prompters = {label: _open_prompter(config, folder) for label, folder in models.items()}
        for prompter in prompters.values():
            _check_prompts(prompter, config, problems)
        needs_sandbox = any(row.mode == "tir" for rows in problems.values() for row in rows)
        sandbox = stack.enter_context(Sandbox(config.sandbox)) if needs_sandbox else None
        total = len(models) * config.samples * sum(map(len, problems.values()))
        failures: list[Failure] = []
        with show_progress("generate", total, "solutions") as progress:
            for label, prompter in prompters.items():
                with _Writer(config, label, prompter, sandbox, stage.folder) as writer:
                    for entry in config.benchmarks:
                        failures += writer.generate(entry, problems[entry.name], progress)
        check_failures(failures, total, config)
        write_text(stage.folder / MODELS_NAME, json.dumps(list(models)))
        rows = _read_all(stage.folder, models, config)
        ledger = Ledger()
        ledger.take(total)
        ledger.keep(len(rows), tokens=sum(row.tokens for row in rows))
        if total > len(rows):
            ledger.drop("not given by the endpoint", total - len(rows))
        unknown = {"problems_without_answer": num_unknown} if num_unknown else {}
        return stage.finish(counts=_count(rows) | unknown, ledger=ledger)


def check_failures(failures: Sequence[Failure], total: int, config: GenerateConfig) -> None:
    """Check that no more solutions failed than allowed.

    Raises:
        ResourceError: too many did; names the first and what to do.
    """
    if len(failures) <= config.endpoint.max_failed_share * total:
        return
    first = failures[0]
    raise ResourceError(
        f"generate: {len(failures)} of {total} solutions could not be had, the first is {first.id}"
        f" sample {first.sample}: {first.why}; run again to ask for these only, or allow them with"
        f" generate.endpoint.max_failed_share={len(failures) / total:.2g}"
    )


class _Writer(Closes):
    """One model; its weights are loaded, or its server started, for the first missing solution."""

    def __init__(
        self,
        config: GenerateConfig,
        label: str,
        prompter: Prompter,
        sandbox: Sandbox | None,
        folder: Path,
    ) -> None:
        self._config = config
        self._label = label
        self._prompter = prompter
        self._folder = folder
        self._stack = ExitStack()
        self._engine: Engine | None = None
        self._calls = None
        if sandbox is not None:
            style = prompter.conversation.code
            self._calls = CodeCalls(style, sandbox, prompter.encode, prompter.decode)

    def close(self) -> None:
        """Let go of what is held."""
        self._stack.close()

    def generate(
        self, benchmark: Benchmark, problems: Sequence[Problem], progress: Progress
    ) -> list[Failure]:
        """Write the predictions of one benchmark, continuing what an earlier run left.

        Returns the solutions that could not be had. With more than are allowed, what there is
        waits for the next run.
        """
        path = self._folder / self._label / f"{benchmark.name}.jsonl"
        unfinished = UnfinishedPredictions(path.with_suffix(".unfinished"))
        total = len(problems) * self._config.samples
        if path.exists():
            unfinished.remove()
            progress.skip(total)
            return []
        rows = list(unfinished.found)
        progress.skip(len(rows))
        missing = self._missing(benchmark, problems, {(row.id, row.sample) for row in rows})
        for prediction in self._write(benchmark, missing):
            unfinished.add(prediction)
            rows.append(prediction)
            progress.advance()
        failures = list(self._engine.failures[-(total - len(rows)) :]) if self._engine else []
        if total - len(rows) > self._config.endpoint.max_failed_share * total:
            return failures
        order = {problem.id: index for index, problem in enumerate(problems)}
        rows.sort(key=lambda row: (order[row.id], row.sample))
        write_rows(path, rows)
        unfinished.remove()
        return failures if total > len(rows) else []

    def _missing(
        self, benchmark: Benchmark, problems: Sequence[Problem], done: set[tuple[str, int]]
    ) -> list[Missing]:
        """Return what is to be written, longest prompts first: what needs most memory comes first.

        Samples of one problem stand together and share the reading of its prompt.
        """
        prompts = [
            (problem, self._prompter.encode_prompt(problem, benchmark.path)) for problem in problems
        ]
        return [
            (problem, sample, prompt)
            for problem, prompt in sorted(prompts, key=lambda entry: -len(entry[1]))
            for sample in range(self._config.samples)
            if (problem.id, sample) not in done
        ]

    def _write(self, benchmark: Benchmark, missing: Sequence[Missing]) -> Iterator[Prediction]:
        if not missing:
            return
        for problem, _, prompt in missing:
            if len(prompt) >= self._prompter.max_positions:
                raise InputError.at(
                    benchmark.path,
                    problem.line,
                    f"the prompt has {len(prompt)} tokens and the model {self._prompter.model} has"
                    f" {self._prompter.max_positions} positions; leave it out or extend the model",
                )
        if self._engine is None:
            self._engine = self._start_engine()
        solutions = (self._begin(benchmark, *entry) for entry in missing)
        for solution in self._engine.write(solutions, self._calls):
            if self._calls is not None:
                self._calls.close(solution)
            self._close(self._engine, solution)
            yield solution.as_prediction()

    def _begin(
        self, benchmark: Benchmark, problem: Problem, sample: int, prompt: list[int]
    ) -> Solution:
        identity = f"{self._config.seed} {benchmark.name} {problem.id} {sample}"
        digest = hashlib.sha256(identity.encode()).digest()
        room = self._prompter.max_positions - len(prompt)
        return Solution(
            problem=problem,
            sample=sample,
            prompt=prompt,
            most_tokens=min(room, self._config.max_tokens),
            calls_left=self._prompter.budget(problem),
            rng=np.random.default_rng(int.from_bytes(digest[:16])),
        )

    def _close(self, engine: Engine, solution: Solution) -> None:
        """Take the last segment into the parts, without the stop token."""
        segment = solution.segment
        if segment and segment[-1] in engine.stop_ids:
            segment = segment[:-1]
        solution.append([(None, self._prompter.decode(segment))], solution.segment)

    def _start_engine(self) -> Engine:
        config, model = self._config, self._prompter.model
        if config.engine == "built-in":
            log.info("generate: loading %s", model)
            return ContinuousDecoder(model, config, self._prompter.stop_id)
        name = config.endpoint.model or self._label
        if config.engine == "endpoint":
            client = EndpointClient(str(config.endpoint.url), config.endpoint)
        else:
            log_path = self._folder / f"server-{self._label}.log"
            server = ModelServer(config.engine, config.server, model, name, log_path)
            self._stack.enter_context(server)
            client = EndpointClient(server.url, config.endpoint, server.check_alive)
        return EndpointDecoder(client, name, config, self._prompter)


def _read_problems(config: GenerateConfig) -> tuple[Problems, int]:
    """Return the problems of this chunk, and how many are left out because nobody could grade them.

    Those are named; a chunk counts its own.
    """
    place, total = split_chunk(config.chunk)
    problems: Problems = {}
    num_unknown = 0
    for entry in config.benchmarks:
        rows = read_benchmark(entry)[place - 1 :: total]
        known = [problem for problem in rows if problem.expected_answer]
        if len(known) < len(rows):
            first = next(problem for problem in rows if not problem.expected_answer)
            log.warning(
                "generate: %d of %d problems of %s have no expected_answer and are left out, the"
                " first is %s in %s:%d",
                *(len(rows) - len(known), len(rows), entry.name),
                *(first.id, entry.path, first.line),
            )
        problems[entry.name] = known
        num_unknown += len(rows) - len(known)
    return problems, num_unknown


def _open_prompter(config: GenerateConfig, folder: Path) -> Prompter:
    check_model_folder(folder, with_model=config.engine != "endpoint")
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
