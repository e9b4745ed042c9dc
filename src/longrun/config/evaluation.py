"""The settings of the evaluation stages: generate, group_candidates, evaluate."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from longrun.config.base import Settings, StageConfig, execution, nearest, source
from longrun.config.values import (
    FolderName,
    Mode,
    NonNegative,
    Paths,
    Positive,
    Share,
    is_prompt_file,
    one_or_list,
)


class Benchmark(Settings):
    """One set of problems with known answers."""

    name: FolderName
    """What tables call it."""
    path: Path = source()
    """JSONL with ``problem`` and ``expected_answer``, optionally ``id`` and ``source``."""
    mode: Mode = "cot"
    limit: PositiveInt | None = None
    """Use only the first problems; null: all."""
    like: str | None = execution(None)
    """Name of a known benchmark (aime24, aime25, comp-math-24-25, math-500, gsm8k), or a YAML file,
    that gives the settings below."""
    problems: PositiveInt | None = None
    """Problems that the file must hold; null: any number."""
    columns: dict[str, list[str]] = {}
    """Expected column -> columns of the file that may stand for it where it is missing."""
    answer_after: str | None = None
    """The answer is what stands behind the last of these marks, as ``####``; null: all of it."""

    @model_validator(mode="before")
    @classmethod
    def _take_known_settings(cls, values: Any) -> Any:
        like = values.get("like") if isinstance(values, dict) else None
        return values if like is None else {**known_benchmark(str(like)), **values}


def known_benchmark(name: str) -> dict[str, Any]:
    """Return the settings that a known benchmark, or a YAML file of one, gives.

    Raises:
        ValueError: there is none of that name, or the file is no mapping.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        given = yaml.safe_load(path.read_text()) if path.is_file() else None
        if not isinstance(given, dict):
            raise ValueError(f"like {name}: is no YAML file with the settings of a benchmark")
        return given
    text = resources.files("longrun.config").joinpath("benchmarks.yaml").read_text()
    known: dict[str, dict[str, Any]] = yaml.safe_load(text)
    if name not in known:
        raise ValueError(f"like {name!r}: {nearest(name, list(known))}")
    return known[name]


class SandboxSettings(Settings):
    """Where the code that a model writes is run."""

    isolation: Literal["bubblewrap", "process"] = "bubblewrap"
    """``bubblewrap``: no network, no files but a scratch folder. ``process``: limits on time,
    memory and output only; for code you trust."""
    timeout_seconds: Positive = 10.0
    """Wall time of one code call."""
    memory_bytes: Annotated[int, Field(ge=1 << 26)] = 2 << 30
    """Address space of the process that runs the code."""
    output_chars: PositiveInt = 1000
    """Longer output is cut, as the model would see it."""


class EndpointSettings(Settings):
    """How a server with the OpenAI completions interface is asked."""

    url: str | None = execution(None)
    """Address up to ``/v1``, as ``http://127.0.0.1:8000/v1``; for engine ``endpoint``."""
    model: str | None = None
    """What the server calls the model; null: the label under ``models``."""
    send: Literal["tokens", "text"] = "tokens"
    """Form of the prompt. ``text`` for servers that take no token ids."""
    api_key_variable: str = execution("LONGRUN_API_KEY")
    """Environment variable with the key; without it requests carry none."""
    concurrency: PositiveInt = execution(32)
    """Solutions that are asked for at the same time."""
    requests_per_minute: PositiveInt | None = execution(None)
    """Rate limit; null: none."""
    timeout_seconds: Positive = execution(600.0)
    """Patience with one request."""
    attempts: PositiveInt = execution(6)
    """Tries of one request, with growing pauses between them."""
    max_failed_share: Share = execution(0.0)
    """Solutions that may fail for good; with more the stage ends with an error, and running it
    again asks for these only."""


class ServerSettings(Settings):
    """The inference server that engines ``vllm`` and ``sglang`` start for each model."""

    command: list[str] | None = execution(None)
    """Words of another command, with ``{model}``, ``{name}`` and ``{port}``; null: the engine's."""
    arguments: list[str] = execution([])
    """Words added to the command, as ``--tensor-parallel-size`` and ``8``."""
    start_seconds: Positive = execution(1200.0)
    """Patience with the start of the server."""


class GenerateConfig(StageConfig):
    """Sample solutions of benchmark problems from one or more models."""

    models: dict[FolderName, Path] = source(min_length=1)
    """Label -> Hugging Face model folder. A folder of model folders, such as the ``members`` of an
    average, stands for all of them under their own names."""
    benchmarks: Annotated[list[Benchmark], Field(min_length=1)]
    """Sets of problems to solve."""
    conversation: Path | None = source(None)
    """Output folder of ``prepare``: prompts, chat template and the form of code calls. Null: the
    ``conversation.json`` that an exported model carries."""
    samples: PositiveInt = 1
    """Solutions per problem."""
    temperature: NonNegative = 0.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the most likely tokens that together have this probability."""
    max_tokens: PositiveInt = 1024
    """Bound of one solution, tool output included."""
    max_code_executions: PositiveInt = 8
    """Code budget of problems that do not bring their own ``total_code_executions``."""
    sandbox: SandboxSettings = SandboxSettings()
    """Isolation and limits of code that a model writes."""
    engine: Literal["built-in", "endpoint", "vllm", "sglang"] = "built-in"
    """What writes: Longrun itself, a server that is running, or one that Longrun starts."""
    endpoint: EndpointSettings = EndpointSettings()
    """How servers are asked."""
    server: ServerSettings = ServerSettings()
    """How servers are started."""
    seed: NonNegativeInt = 0
    """Decides the samples when ``temperature`` is above 0."""
    chunk: Annotated[str, Field(pattern=r"^[1-9]\d*/[1-9]\d*$")] | None = None
    """``2/8``: only every eighth problem, from the second on; for several jobs, whose outputs
    ``evaluate`` joins. Null: all problems."""
    batch_size: PositiveInt = execution(64)
    """Solutions that the built-in engine writes at the same time."""

    @model_validator(mode="after")
    def _benchmarks_differ(self) -> "GenerateConfig":
        names = [benchmark.name for benchmark in self.benchmarks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two benchmarks are called {name!r}; rename one")
        return self

    @model_validator(mode="after")
    def _endpoint_has_an_address(self) -> "GenerateConfig":
        if self.engine == "endpoint" and not (self.endpoint.url or "").startswith("http"):
            raise ValueError("engine endpoint needs endpoint.url, as http://127.0.0.1:8000/v1")
        return self

    @model_validator(mode="after")
    def _chunk_exists(self) -> "GenerateConfig":
        place, _, total = (self.chunk or "1/1").partition("/")
        if int(place) > int(total):
            raise ValueError(f"chunk {self.chunk}: there is no chunk {place} of {total}")
        return self


class GroupCandidatesConfig(StageConfig):
    """Write selection problems (GenSelect) from sampled solutions: groups to choose from."""

    predictions: Paths = source()
    """Output folders of ``generate`` with several samples per problem."""
    prompt: str = "selection"
    """Name of the built-in prompt or a YAML file with the texts ``solution`` and ``user``."""
    group_size: Annotated[int, Field(ge=2, le=32)] = 16
    """Candidates in one prompt; all of them where a problem has fewer."""
    repeats: PositiveInt = 64
    """Groups per problem; the choices of all of them vote."""
    summary_chars: PositiveInt = 3000
    """Of a longer summary the end is shown, cut at a paragraph."""
    seed: NonNegativeInt = 0
    """Decides which candidates meet in a group, and their order."""

    def inputs(self) -> dict[str, list[Path]]:
        """Add the prompt file: its text decides the output."""
        named = {"prompt": [Path(self.prompt)]} if is_prompt_file(self.prompt) else {}
        return {**super().inputs(), **named}

    def identity(self) -> dict[str, Any]:
        """Leave out where a prompt file lies."""
        named = {"prompt": "file"} if is_prompt_file(self.prompt) else {}
        return {**super().identity(), **named}


class JudgeSettings(Settings):
    """A language model that decides what comparison cannot."""

    endpoint: EndpointSettings = EndpointSettings()
    """The server with the OpenAI chat interface; ``url`` and ``model`` are needed."""
    max_tokens: PositiveInt = 2048
    """Bound of one judgement."""


class EvaluateConfig(StageConfig):
    """Grade predictions and summarise them with error bars."""

    predictions: Paths = source()
    """Output folders of ``generate``; those of chunks are joined."""
    rewards: Annotated[list[Path], one_or_list] = source([])
    """JSONL with ``model``, ``benchmark``, ``id``, ``sample`` and ``reward``: adds the score of the
    sample with the highest reward."""
    judge: JudgeSettings | None = None
    """Ask a language model about answers that comparison did not find equal; null: never."""
