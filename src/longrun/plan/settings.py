"""What ``longrun plan`` may be told: model, lengths, batch, cluster, and what to hold fixed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from longrun.config.settings import Settings, source
from longrun.config.values import NonNegative, Positive
from longrun.nn.costs import Recompute
from longrun.parallel.layouts import Sharding

Gpu = Literal["h100", "h200"]
OptimizerName = Literal["adamw", "muon"]
States = Literal["float32", "bfloat16", "int8"]
Weights = Literal["float32", "split"]


class Rates(Settings):
    """What one GPU and its links do; null: the assumption for the ``gpu``."""

    memory_gib: Positive | None = None
    """Memory of one GPU, GiB."""
    peak_tflops: Positive | None = None
    """Datasheet rate of bfloat16 matrix products: the denominator of MFU."""
    matrix_tflops: Positive | None = None
    """What matrix products of the model's sizes reach."""
    attention_forward_tflops: Positive | None = None
    """What the attention kernel reaches forward, causal operations counted."""
    attention_backward_tflops: Positive | None = None
    """And backward."""
    memory_terabytes_per_second: Positive | None = None
    """Reading and writing GPU memory."""
    node_gigabytes_per_second: Positive | None = None
    """One GPU to the others of its machine, one direction, in collectives."""
    network_gigabytes_per_second: Positive | None = None
    """One GPU to other machines, one direction, in collectives."""

    def filled(self, gpu: Gpu) -> "FilledRates":
        """Return the rates with the assumptions for ``gpu`` where nothing is set."""
        own = {name: value for name, value in self.model_dump().items() if value is not None}
        return FilledRates(**{**ASSUMED[gpu], **own})


class FilledRates(Settings):
    """``Rates`` with every number there."""

    memory_gib: Positive
    peak_tflops: Positive
    matrix_tflops: Positive
    attention_forward_tflops: Positive
    attention_backward_tflops: Positive
    memory_terabytes_per_second: Positive
    node_gigabytes_per_second: Positive
    network_gigabytes_per_second: Positive


_BOTH = {
    "peak_tflops": 989.0,
    # FlashAttention 2, which torch ships: Dao 2023 and Shah et al. 2024, head 128, causal, 8k-16k.
    "attention_forward_tflops": 335.0,
    "attention_backward_tflops": 320.0,
    # NVLink 4 (450 by the datasheet) and one 400 Gbit/s port per GPU (50).
    "node_gigabytes_per_second": 350.0,
    "network_gigabytes_per_second": 45.0,
}
ASSUMED: dict[Gpu, dict[str, float]] = {
    "h100": {
        **_BOTH,
        "memory_gib": 79.0,
        "matrix_tflops": 640.0,
        "memory_terabytes_per_second": 2.9,
    },
    "h200": {
        **_BOTH,
        "memory_gib": 139.0,
        "matrix_tflops": 700.0,
        "memory_terabytes_per_second": 3.8,
    },
}
"""Assumptions from datasheets and publications; Longrun has measured none of them. Measure yours
and set ``rates``."""


class PlanSettings(Settings):
    """Rank all layouts of a training by modelled time; no GPU and no weights are needed."""

    model: str
    """A model folder, a ``config.json``, or one of 0.5b, 1.5b, 7b, 14b, 32b (Qwen2.5)."""
    packs: Path | None = source(None)
    """Output folder of ``pack``; null: lengths are drawn, see ``mean_tokens``."""
    documents: PositiveInt | None = None
    """Without ``packs``: number of training documents, to know how many steps an epoch has."""
    mean_tokens: Positive = 7500.0
    """Without ``packs``: mean length of log-normal documents, before they are cut at the pack."""
    sigma: NonNegative = 0.7
    """Without ``packs``: standard deviation of the logarithm of the length."""
    pack_size: Annotated[int, Field(ge=2)] = 32768
    """Without ``packs``: tokens of a pack."""
    global_batch_size: PositiveInt = 256
    """Packs of one optimizer step, over all GPUs."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; null: what ``max_epochs`` gives."""
    max_epochs: Positive = 1.0
    """Passes over the packs; the smaller of the two bounds holds."""
    num_nodes: PositiveInt = 1
    """Machines."""
    num_processes: PositiveInt = 8
    """GPUs of one machine."""
    gpu: Gpu = "h100"
    """Whose rates are assumed where ``rates`` says nothing."""
    rates: Rates = Rates()
    """What the GPUs and links really do."""
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.92
    """Share of a GPU's memory that a plan may fill; the rest is for fragmentation."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type, as in ``train``."""
    compile: bool = True
    """Layers are compiled, as in ``train``: pointwise operations are fused."""
    loss_chunk_tokens: PositiveInt = 1024
    """As in ``train``."""
    balance: Literal["auto", "packs", "documents"] = "auto"
    """As in ``train``."""
    optimizers: Annotated[list[OptimizerName], Field(min_length=1)] = ["adamw"]  # noqa: RUF012 - pydantic copies the defaults of fields
    """Optimizers to compare."""
    states: Annotated[list[States], Field(min_length=1)] = ["float32"]  # noqa: RUF012 - as above
    """Types of AdamW's moments to compare, as ``optimizer.states`` of ``train``; compact ones
    change the numbers of a training, so they are looked at only when they are named."""
    weights: Annotated[list[Weights], Field(min_length=1)] = ["float32"]  # noqa: RUF012 - as above
    """How weights are held, as ``optimizer.weights`` of ``train``; ``split`` rounds ties
    differently."""
    tensor_parallel: PositiveInt | None = None
    """Look at this size only; null: at all."""
    context_parallel: PositiveInt | None = None
    """Look at this size only; null: at all."""
    sharding: Sharding | None = None
    """Look at this sharding only; null: at all."""
    shard_size: PositiveInt | None = None
    """Look at this size only; null: at all."""
    recompute: Recompute | None = None
    """Look at this policy only; null: at all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the drawn lengths and the batches that are looked at."""
