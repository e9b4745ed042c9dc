"""The settings of training, of its proof and of averaging: one class per verb, and their parts."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from longrun.config.settings import Settings, StageConfig, execution, model_source, source
from longrun.config.values import NonNegative, Positive


class OptimizerSettings(Settings):
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon on the hidden matrices, AdamW on everything else."""
    lr: Positive = 1e-4
    """Peak learning rate."""
    min_lr: NonNegative = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegative = 0.01
    """Applied to matrices only, never to norms and biases."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    eps: Positive = 1e-8
    clip_norm: Positive | None = 1.0
    """Bound of the global gradient norm; null: no clipping."""
    states: Literal["float32", "bfloat16", "int8"] = "float32"
    """Type of AdamW's two moments: 8, 4 or about 2 bytes a weight. The compact ones change the
    numbers of a training."""
    weights: Literal["float32", "split"] = "float32"
    """``split``: the hidden matrices as bfloat16 and 16 more bits, together the exact float32; only
    ties round differently. Saves their bfloat16 copies, 2 bytes a weight; needs dtype bfloat16 and
    sharding replicate."""
    average_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Keep a running float32 mean of the weights over about ``1 / (1 - average_decay)`` steps and
    export it as ``final-average``; null: none. 4 bytes a weight."""

    @model_validator(mode="after")
    def _floor_below_peak(self) -> "OptimizerSettings":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}; lower it")
        if self.name == "muon" and self.states != "float32":
            raise ValueError(f"states {self.states} needs name adamw; muon keeps float32 moments")
        plain = self.name == "adamw" and self.states == "float32" and self.average_decay is None
        if self.weights == "split" and not plain:
            raise ValueError("weights split needs name adamw, states float32 and no average_decay")
        return self


class LossWeights(Settings):
    """Weight of each kind of span in the loss; the stop token always has weight 1."""

    thinking: NonNegative = 1.0
    code: NonNegative = 1.0
    answer: NonNegative = 1.0
    tool_output: NonNegative = 0.0
    notice: NonNegative = 0.0


class ContextEdit(Settings):
    """How the positions of the model are changed before training; recorded in what is exported."""

    rope_theta: Positive | None = None
    """Base of the rotary position embedding; null: as in the model."""
    max_positions: PositiveInt | None = None
    """``max_position_embeddings``; null: as in the model, or stretched by ``yarn_factor``."""
    yarn_factor: Annotated[float, Field(gt=1.0)] | None = None
    """Stretch the positions by YaRN; null: not."""


class GuardSettings(Settings):
    """What happens to a step whose loss or gradient is out of bounds."""

    non_finite: Literal["stop", "skip"] = "stop"
    """Loss or gradient is not finite: end the training, or leave that batch out."""
    spike_factor: Annotated[float, Field(gt=1.0)] | None = None
    """A loss above this times the median of the last ``spike_window`` losses is a spike; null:
    nothing is."""
    spike_window: PositiveInt = 50
    """Steps of that median; there is no spike before there are so many."""
    on_spike: Literal["stop", "skip", "log"] = "log"
    """End the training, leave that batch out, or train on it and say so."""
    max_skips: PositiveInt = 5
    """Batches left out in a row; one more ends the training."""


class WandbSettings(Settings):
    """Weights & Biases; its key comes from the environment or its own login."""

    project: str = "longrun"
    name: str | None = None
    """Name of the run; null: Weights & Biases makes one up."""
    offline: bool = False
    """Write to ``wandb/`` in the output folder only; ``wandb sync`` sends it later."""


class EngineConfig(StageConfig):
    """A model on packs, spread over processes: what training and its proof have in common."""

    packs: Path = source()
    """Output folder of ``pack``."""
    model: Path = model_source()
    """Hugging Face model folder to start from, or the output folder of a stage that made one."""
    context: ContextEdit = ContextEdit()
    """Changes of the model's positions."""
    loss_weights: LossWeights = LossWeights()
    """Which kinds of spans are learned, and how much."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; the weights themselves are always float32."""
    num_nodes: PositiveInt = execution(1)
    """Machines that train together; each runs the same command."""
    num_processes: PositiveInt = execution(1)
    """Processes on each machine, one per GPU."""
    tensor_parallel: PositiveInt = execution(1)
    """Processes that share every matrix; divides the heads."""
    context_parallel: PositiveInt = execution(1)
    """Processes that share the tokens of a pack; what is left over is data parallel."""
    sharding: Literal["replicate", "states", "full"] = execution("replicate")
    """``full`` shards weights, gradients and optimizer states over the processes (FSDP2);
    ``states`` gathers the weights and reduces the gradients once per step."""
    shard_size: PositiveInt | None = execution(None)
    """Processes that share one copy of the weights; null: all data and context ones."""
    attention: Literal["auto", "reference", "sdpa", "torch_varlen", "fa4", "cudnn"] = execution(
        "auto"
    )
    """Attention backend; ``auto`` takes the fastest here and logs it. ``fa4`` needs the extra
    ``[gpu]``, ``cudnn`` does not know context parallelism."""
    recompute: Literal["none", "pointwise", "all_but_attention", "full"] = execution("none")
    """What the backward pass computes again instead of keeping it: norms and gates; everything but
    the attention; every layer from its input."""
    compile: bool = execution(False)
    """Compile each layer with torch.compile."""
    loss_chunk_tokens: PositiveInt = execution(1024)
    """Supervised tokens whose logits exist at the same time."""


class TrainConfig(EngineConfig):
    """Fine-tune a model on packs; one command for one process or many."""

    output_revision: ClassVar[int] = 2

    max_steps: PositiveInt | None = None
    """Optimizer steps; null: what ``max_epochs`` gives."""
    max_epochs: Positive = 1.0
    """Upper bound in passes over the packs; the smaller of the two bounds holds."""
    global_batch_size: PositiveInt | None = 8
    """Packs of one optimizer step, over all processes; null when ``global_batch_tokens`` is set."""
    global_batch_tokens: PositiveInt | None = None
    """Supervised tokens of one optimizer step: a batch takes packs until it has that many."""
    balance_window: PositiveInt = 1
    """Batches whose packs are sorted by modelled time together and cut anew, so that all packs of a
    step take equally long; 1: batches are random. Above 1 a batch has documents of like length."""
    balance: Literal["auto", "packs", "documents"] = execution("auto")
    """What is dealt to the processes by modelled time: whole packs, or single documents regrouped;
    ``auto``: documents where that is modelled to save more than 0.3 %."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer, learning rate and schedule."""
    seed: NonNegativeInt = 0
    """Decides the order of the packs."""
    save_interval: PositiveInt = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: PositiveInt | None = None
    """Newest checkpoints to keep; null: all."""
    keep_steps: list[PositiveInt] = execution([])
    """Steps to save whatever ``save_interval`` is, and to keep: those that will be averaged.
    Another list leaves a finished training run as it is."""
    guard: GuardSettings = GuardSettings()
    """What happens to a step whose loss or gradient is out of bounds."""
    validation_interval: PositiveInt | None = None
    """Steps between validations on the held-out documents; null: only at the end."""
    save_in_background: bool = execution(True)
    """Go on training while a checkpoint is written; takes memory for a copy of it on the host."""
    prefetch_batches: NonNegativeInt = execution(2)
    """Batches that are read ahead while a step runs; 0: none."""
    tensorboard: bool = execution(False)
    """Write ``tensorboard/`` too; needs ``pip install tensorboard``."""
    wandb: WandbSettings | None = execution(None)
    """Send the metrics to Weights & Biases too; needs ``pip install wandb``."""
    peak_flops: Positive | None = execution(None)
    """Operations per second that a device reaches at most, for the utilisation in the metrics;
    null: what its maker states, if the device is known."""
    log_interval: PositiveInt = execution(10)
    """Steps between lines of the log; ``metrics.jsonl`` has every step."""
    verify: bool = execution(True)
    """Check document isolation and loss equality before the first step."""

    @model_validator(mode="before")
    @classmethod
    def _batches_in_one_unit(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("global_batch_tokens") is None:
            return values
        return {"global_batch_size": None, **values}

    @model_validator(mode="after")
    def _one_batch_size(self) -> "TrainConfig":
        if (self.global_batch_size is None) == (self.global_batch_tokens is None):
            raise ValueError(
                "set either global_batch_size or global_batch_tokens, not both or none"
            )
        if self.balance_window > 1 and self.global_batch_size is None:
            raise ValueError(
                "balance_window needs global_batch_size: batches of equally many packs"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_be_split(self) -> "TrainConfig":
        whole = self.sharding == "replicate" and self.tensor_parallel == 1
        if self.optimizer.weights == "split" and not (whole and self.dtype == "bfloat16"):
            raise ValueError(
                "optimizer.weights split needs dtype bfloat16, sharding replicate and"
                " tensor_parallel 1: sharded weights have no bfloat16 copies to save"
            )
        return self


class VerifyConfig(EngineConfig):
    """Prove on your model, packs, type and layout that packing and sharding change nothing."""

    num_documents: Annotated[int, Field(ge=2)] = 8
    """Documents of the first packs that are taken."""
    document_tokens: Annotated[int, Field(ge=2)] | None = 2048
    """Tokens taken from the end of each, where the supervised ones are; null: all."""


class AverageConfig(StageConfig):
    """Average checkpoints of one training into a Hugging Face model."""

    another: ClassVar[str] = (
        "Name another output_dir (in a `train` command: --num_training_jobs=0"
        " --final_nemo_path=FOLDER)"
    )
    output_revision: ClassVar[int] = 2

    checkpoints: Path = source(unread=["checkpoints/*"])
    """Output folder of ``train``."""
    steps: list[PositiveInt] | str = "all"
    """Steps to average: a list, ``all``, or ``last:N``. Every one must be there."""
    export_members: bool = False
    """Also write each member as a model of its own, to compare with the mean."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the exported weights; the mean itself is taken in float32."""
