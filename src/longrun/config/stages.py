"""The settings of every stage: one class per verb of the command line.

A class says what its stage may be told and within which bounds. Checks that need a file or a
second stage live where both are at hand.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from longrun.config.convert import ConvertConfig, ConvertPacksConfig
from longrun.config.evaluation import (
    CheckContaminationConfig,
    EvaluateConfig,
    GenerateConfig,
    GroupCandidatesConfig,
)
from longrun.config.filters import Filter
from longrun.config.settings import Settings, StageConfig, execution, model_source, source
from longrun.config.training import AverageConfig, TrainConfig, VerifyConfig
from longrun.config.values import (
    FolderName,
    Mode,
    NonNegative,
    Paths,
    Positive,
    Share,
    as_list,
    is_prompt_file,
    one_or_list,
)

MATH_PROMPTS = {"cot": "math", "tir": "math-tir", "genselect": "as-is"}


def _as_sources(value: Any) -> Any:
    given = as_list(value)
    if not isinstance(given, list | tuple):
        return given
    return [{"path": entry} if isinstance(entry, str | Path) else entry for entry in given]


def _as_day(value: Any) -> str:
    """YAML reads ``2026-12-01`` as a date, a command line as a text."""
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError(f"{value!r} is not a day, as in 2026-12-01") from None


def _check_part(part: str) -> str:
    number, slash, num_parts = part.partition("/")
    if not (slash and number.isdecimal() and num_parts.isdecimal()):
        raise ValueError("a part is two numbers, as in 2/8")
    if not 1 <= int(number) <= int(num_parts):
        raise ValueError("the first number of a part is at least 1 and at most the second")
    return part


class SynthesizeConfig(StageConfig):
    """Write generated problems with worked solutions in the OpenMathReasoning columns."""

    num_cot: PositiveInt = 7000
    """Training records solved by reasoning in words."""
    num_tir: PositiveInt = 3600
    """Training records solved with Python."""
    num_genselect: PositiveInt = 7000
    """Training records that choose among candidate solutions."""
    num_held_out: PositiveInt = 100
    """Benchmark problems of each mode; their operands never occur in training."""
    seed: NonNegativeInt = 0
    """Same seed, same records, byte for byte."""


class TrainTokenizerConfig(StageConfig):
    """Train a byte-level BPE tokenizer and write it as a Hugging Face folder."""

    data: Paths = source()
    """Record files whose text the merges are learned from."""
    prompts: list[Path] = source([])
    """Prompt files whose words get tokens of their own too."""
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 1024
    """Tokens of the vocabulary, special tokens included."""


class InitModelConfig(StageConfig):
    """Make a randomly initialised Qwen2-architecture model as a Hugging Face folder."""

    output_revision: ClassVar[int] = 2

    tokenizer: Path = source()
    """Hugging Face folder whose tokenizer the model gets; sets the size of the vocabulary."""
    num_layers: PositiveInt = 4
    """Decoder layers."""
    hidden_size: PositiveInt = 128
    """Width of the residual stream; a multiple of ``num_heads``."""
    intermediate_size: PositiveInt = 384
    """Width inside the MLP."""
    num_heads: PositiveInt = 4
    """Query heads; a multiple of ``num_kv_heads``."""
    num_kv_heads: PositiveInt = 2
    """Key and value heads (grouped-query attention)."""
    max_positions: PositiveInt = 4096
    """Longest document the model is made for, in tokens."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary position embedding."""
    tied: bool = True
    """Share the embedding with the output layer."""
    std: Positive = 0.02
    """Standard deviation of the random weights; narrow models learn sooner with more."""
    seed: NonNegativeInt = 0
    """Decides the random weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "InitModelConfig":
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                "num_heads must divide hidden_size and num_kv_heads must divide num_heads"
            )
        return self


class FetchConfig(StageConfig):
    """Download splits of a data set from the Hugging Face Hub; needs the extra ``hub``."""

    dataset: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    """Name on the Hub, as ``nvidia/OpenMathReasoning``."""
    splits: Annotated[list[FolderName], one_or_list, Field(min_length=1)]
    """Splits to fetch; each becomes a folder of Parquet files."""
    revision: str = "main"
    """Branch, tag or commit; name a commit for a fetch that can be repeated exactly."""


class DataSource(Settings):
    """Some record files and how their columns become the expected ones."""

    path: Path = source()
    """File or glob of JSONL, JSONL.gz, JSONL.zst, Parquet or Arrow files, or a folder that
    ``datasets`` saved."""
    columns: dict[str, str] = {}
    """Expected column -> ``str.format`` template over the raw record, as in
    ``generated_solution: "{solution} \\\\boxed{{{answer}}}"``; columns not named pass unchanged."""
    layout: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    """Records are ready: ``input`` is a whole prompt in this layout, as ``qwen-instruct``, and
    ``output`` the response. Null: ``problem``, ``generated_solution``, ``inference_mode``."""


_Sources = str | DataSource | list[str | DataSource]


class PrepareConfig(StageConfig):
    """Turn raw records into tokenized documents with typed spans."""

    data: Annotated[
        list[DataSource],
        BeforeValidator(_as_sources, json_schema_input_type=_Sources),
        Field(min_length=1),
    ]
    """Record sources, in order. A plain path stands for ``{path: ...}``."""
    tokenizer: Path = model_source(unread=["*.safetensors"])
    """Hugging Face tokenizer or model folder."""
    prompts: dict[Mode, str] = MATH_PROMPTS  # type: ignore[assignment]  # keys are the literals
    """Mode -> name of a built-in prompt or a YAML file."""
    chat_template: str | None = None
    """Name of a built-in chat template, a ``.jinja`` file, or ``tokenizer`` for its own. Null: its
    own where it has one; ``chatml`` where it has none, and for ready records."""
    template_date: Annotated[str, BeforeValidator(_as_day)] | None = None
    """What a chat template that reads the clock is told, as ``2026-12-01``; null: the day on which
    ``prepare`` is first started."""
    code_style: Literal["tool_call", "fenced", "llm_code"] = "tool_call"
    """How code calls are marked in TIR solutions: ``<tool_call>`` tags, fenced python, or
    ``<llm-code>`` tags with outputs in ``<llm-code-output>``."""
    missing_budget: Literal["drop", "pass"] = "drop"
    """TIR records without any notice of remaining code executions."""
    filters: list[Filter] = []
    """Applied in order; the first that refuses a record names it in the ledger."""
    validation_share: Share = 0.0
    """Share of the problems (never of the records) held out for validation."""
    seed: NonNegativeInt = 0
    """Decides which problems are held out."""
    part_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Bytes of a source file that one worker takes at a time and writes as one shard."""
    part: Annotated[str, AfterValidator(_check_part)] | None = None
    """``2/8``: prepare the second of eight shares of the data; ``merge`` joins them."""
    num_workers: NonNegativeInt = execution(0)
    """Worker processes; 0: one per core, or as many as ``memory_mb`` allows."""
    memory_mb: Annotated[int, Field(ge=600)] = execution(2048)
    """Memory (10^6 bytes) of all processes together, for records of ordinary size."""

    @model_validator(mode="after")
    def _one_kind_of_duplicates(self) -> "PrepareConfig":
        if len({one.duplicates for one in self.filters if one.duplicates}) > 1:
            raise ValueError("filters name two kinds of duplicates; `problem` covers `record`")
        return self

    def inputs(self) -> dict[str, list[Path]]:
        """Add the prompt and template files to the sources: their text decides the output."""
        return {**super().inputs(), **{key: [Path(name)] for key, name in self._files().items()}}

    def identity(self) -> dict[str, Any]:
        """Leave out where prompt and template files lie; what is in them is an input."""
        identity = super().identity()
        for key in self._files():
            place, _, mode = key.partition(".")
            if mode:
                identity[place] = {**identity[place], mode: "file"}
            else:
                identity[place] = "file"
        return identity

    def _files(self) -> dict[str, str]:
        named = {f"prompts.{mode}": name for mode, name in self.prompts.items()}
        named["chat_template"] = self.chat_template or ""
        return {key: name for key, name in named.items() if is_prompt_file(name)}


class MergeConfig(StageConfig):
    """Join documents that were prepared apart: parts of one prepare, or data after data."""

    verifies_anew = True

    parts: Paths = source()
    """Output folders of ``prepare``: those made with part=1/M ... M/M, in any order, or whole ones
    of different data, in the order of the data."""


class PackConfig(StageConfig):
    """Decide which documents share a pack; copies no tokens."""

    documents: Path = source(unread=["*.bin"])
    """Output folder of ``prepare``."""
    pack_size: Annotated[int, Field(ge=2)] = 32768
    """Tokens of a pack; a document is never split."""
    strategy: Literal["random-exact", "best-fit", "sequential", "none"] = "random-exact"
    """``none`` gives every document a pack of its own."""
    num_epochs: PositiveInt = 1
    """Plans to make, each with its own random choice; training cycles through them."""
    over_long: Literal["drop", "error", "truncate-response"] = "drop"
    """Documents longer than ``pack_size``. ``truncate-response`` keeps their beginning, without
    an answer or a stop token at the end, unless the prompt alone is too long."""
    weights: dict[str, NonNegative] = {}
    """Pattern of source files, as ``*/tir-*.parquet`` -> how often their documents are in an
    epoch: 0.5 draws half of them anew for every epoch, 2 takes each twice. The first pattern that
    fits counts; files that fit none have 1."""
    max_dropped_share: Share = 0.05
    """More than this share of documents dropped as over-long stops the stage."""
    seed: NonNegativeInt = 0
    """Decides which documents meet in a pack and the order of the packs."""


class ReportConfig(StageConfig):
    """Write one self-contained page about a run."""

    stages: Paths = source(unread=["*.bin", "*.idx", "*.npy", "*.distcp", "*.safetensors"])
    """Output folders of the stages to show, in order."""
    title: str = "Longrun"
    """Headline of the page."""


STAGES: dict[str, type[StageConfig]] = {
    "synthesize": SynthesizeConfig,
    "train_tokenizer": TrainTokenizerConfig,
    "init_model": InitModelConfig,
    "fetch": FetchConfig,
    "prepare": PrepareConfig,
    "merge": MergeConfig,
    "check_contamination": CheckContaminationConfig,
    "pack": PackConfig,
    "convert_packs": ConvertPacksConfig,
    "convert": ConvertConfig,
    "verify": VerifyConfig,
    "train": TrainConfig,
    "average": AverageConfig,
    "generate": GenerateConfig,
    "group_candidates": GroupCandidatesConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
}
"""Verb -> its settings: the only list of stages."""
