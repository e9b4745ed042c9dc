"""The settings of the evaluation stages, from generate to check_contamination."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from longrun.config.benchmarks import Benchmark, Benchmarks
from longrun.config.settings import Settings, StageConfig, execution, model_source, source
from longrun.config.values import (
    FolderName,
    NonNegative,
    Paths,
    Positive,
    Share,
    is_prompt_file,
    one_or_list,
)


class SandboxSettings(Settings):
    """Where the code that a model writes is run."""

    isolation: Literal["bubblewrap", "process"] = "bubblewrap"
    """``bubblewrap``: no network, no files but a scratch folder. ``process``: the same limits, but
    it reads every file that you can; for code you trust."""
    timeout_seconds: Positive = 10.0
    """Wall time of one code call."""
    memory_bytes: Annotated[int, Field(ge=1 << 26)] = 2 << 30
    """Address space of the process that runs the code."""
    output_chars: PositiveInt = 1000
    """Longer output is cut, as the model would see it."""
    packages: list[str] = ["numpy", "sympy"]
    """Modules that the code must be able to import; without one of them the stage refuses. Others
    often have ``scipy`` and ``pandas`` too (``pip install pandas scipy``)."""


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
    """Patience with one request, from the connection to the last byte of the answer."""
    attempts: PositiveInt = execution(6)
    """Tries of one request, with growing pauses between them."""
    max_failed_share: Share = execution(0.0)
    """Solutions that may fail for good; with more the stage ends with an error, and running it
    again asks for these only."""


class CompletionSettings(EndpointSettings):
    """How a server is asked for solutions."""

    top_k: int = -1
    """Sample from this many of the likeliest tokens; -1: all. Sent with every request, as are
    temperature, ``top_p`` and the two below, so that no default of the server counts."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Leave out tokens less likely than this share of the likeliest."""
    repetition_penalty: Positive = 1.0
    """Above 1 tokens that were used are less likely; 1: none."""
    stop: list[str] = []
    """Texts that end a solution; the server leaves them out."""
    body: dict[str, Any] = {}
    """Further fields of every request, or other values; null takes a field out, as
    ``{top_k: null, min_p: null, repetition_penalty: null}`` for servers that refuse them."""


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

    models: dict[FolderName, Path] = model_source(min_length=1)
    """Label -> Hugging Face model folder, or output folder of a stage that made one. A folder of
    model folders, such as the ``members`` of an average, stands for all under their own names."""
    benchmarks: Benchmarks
    """Sets of problems to solve: known names, files, or mappings."""
    conversation: Path | None = source(None, unread=["train/*", "validation/*", "parts/*"])
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
    endpoint: CompletionSettings = CompletionSettings()
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
        _refuse_same_names(self.benchmarks)
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


class CheckContaminationConfig(StageConfig):
    """Look for the problems of benchmarks among the problems that a model is trained on."""

    documents: Paths = source()
    """Output folders of ``prepare`` or ``merge``."""
    benchmarks: Benchmarks
    """Known names, files, or mappings; only the column ``problem`` is needed."""
    ngram: PositiveInt = 13
    """Words in a row that must agree; a shorter benchmark problem must occur whole."""

    @model_validator(mode="after")
    def _benchmarks_differ(self) -> "CheckContaminationConfig":
        _refuse_same_names(self.benchmarks)
        return self


def _refuse_same_names(benchmarks: list[Benchmark]) -> None:
    names = [benchmark.name for benchmark in benchmarks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two benchmarks are called {name!r}; rename one")
