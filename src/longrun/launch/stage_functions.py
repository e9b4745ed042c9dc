"""Every stage as a function with the names of the command line.

    from longrun import PackConfig, pack, train
    pack(PackConfig(documents=Path("runs/prepare"), output_dir=Path("runs/pack")), cluster="slurm")
    train(packs="runs/pack", model="base", cluster="slurm", expname="first", run_after="pack")

Settings come as the stage's config object, which an editor completes and mypy checks, or by name.
Options of NeMo-Skills are taken as well, by name or in ``ctx=wrap_arguments("++...")``. What else a
call takes (``cluster``, ``expname``, ``run_after``, ...) and what it returns: ``verbs.start_verb``.
"""

from typing import Any

from longrun.config.convert import ConvertConfig, ConvertPacksConfig
from longrun.config.evaluation import (
    CheckContaminationConfig,
    EvaluateConfig,
    GenerateConfig,
    GroupCandidatesConfig,
)
from longrun.config.nemo_skills.verbs import EVAL_VERB
from longrun.config.stages import (
    FetchConfig,
    InitModelConfig,
    MergeConfig,
    PackConfig,
    PrepareConfig,
    ReportConfig,
    SynthesizeConfig,
    TrainTokenizerConfig,
)
from longrun.config.training import AverageConfig, TrainConfig, VerifyConfig
from longrun.launch.commands import Arguments
from longrun.launch.verbs import ExperimentHandle, start_verb


def synthesize(
    config: SynthesizeConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Write generated problems with worked solutions."""
    return start_verb("synthesize", config, ctx=ctx, **settings)


def train_tokenizer(
    config: TrainTokenizerConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Train a byte-level BPE tokenizer and write it as a Hugging Face folder."""
    return start_verb("train_tokenizer", config, ctx=ctx, **settings)


def init_model(
    config: InitModelConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Make a randomly initialised model as a Hugging Face folder."""
    return start_verb("init_model", config, ctx=ctx, **settings)


def fetch(
    config: FetchConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Download splits of a data set from the Hugging Face Hub."""
    return start_verb("fetch", config, ctx=ctx, **settings)


def prepare(
    config: PrepareConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Turn raw records into tokenized documents."""
    return start_verb("prepare", config, ctx=ctx, **settings)


def merge(
    config: MergeConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Join documents that were prepared apart."""
    return start_verb("merge", config, ctx=ctx, **settings)


def check_contamination(
    config: CheckContaminationConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Look for benchmark problems in the training documents."""
    return start_verb("check_contamination", config, ctx=ctx, **settings)


def pack(
    config: PackConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Decide which documents share a pack."""
    return start_verb("pack", config, ctx=ctx, **settings)


def convert_packs(
    config: ConvertPacksConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Bring packs into padded arrays of other programs, or such arrays into packs."""
    return start_verb("convert_packs", config, ctx=ctx, **settings)


def convert(
    config: ConvertConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Write a model anew: another type, smaller files, other positions."""
    return start_verb("convert", config, ctx=ctx, **settings)


def verify(
    config: VerifyConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Check that packing and layout change no loss and no gradient."""
    return start_verb("verify", config, ctx=ctx, **settings)


def train(
    config: TrainConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Fine-tune a model on packs."""
    return start_verb("train", config, ctx=ctx, **settings)


def average(
    config: AverageConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Average checkpoints of one training run."""
    return start_verb("average", config, ctx=ctx, **settings)


def generate(
    config: GenerateConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Sample solutions of benchmark problems."""
    return start_verb("generate", config, ctx=ctx, **settings)


def group_candidates(
    config: GroupCandidatesConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Write problems whose solutions a model chooses among."""
    return start_verb("group_candidates", config, ctx=ctx, **settings)


def evaluate(
    config: EvaluateConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Grade predictions and summarise them."""
    return start_verb("evaluate", config, ctx=ctx, **settings)


def write_report(
    config: ReportConfig | None = None, *, ctx: Arguments | None = None, **settings: Any
) -> ExperimentHandle:
    """Write one self-contained page about a run."""
    return start_verb("report", config, ctx=ctx, **settings)


def generate_and_evaluate(*, ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Sample solutions and grade them, as ``eval`` of NeMo-Skills."""
    return start_verb(EVAL_VERB, ctx=ctx, **settings)
