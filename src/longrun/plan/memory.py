"""Memory of one training step, per process: states, gathered weights, activations, logits.

A lower bound with named parts, for choosing settings before anything is queued; it never asks the
device. It leaves out the runtime's own context, fragmentation and communication buffers, and
counts fused pointwise operations.

Trace for Qwen2.5-7B (7.616 G parameters), float32 masters, one process: weights 28.4 GiB,
gradients 28.4 GiB, two AdamW moments 56.7 GiB: 113.5 GiB of states before the first activation.
"""

from dataclasses import dataclass
from typing import Literal

from longrun.nn.costs import ModelShape, Recompute, saved_activation_bytes

MASTER_BYTES = 4
"""Weights, gradients and optimizer states are float32."""
_LOGIT_COPIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """The settings of ``train`` that decide the memory of a step."""

    pack_tokens: int
    """Tokens of one pack; a micro-step is one pack."""
    num_processes: int = 1
    sharding: Literal["replicate", "full"] = "replicate"
    recompute: Recompute = "none"
    optimizer: Literal["adamw", "muon"] = "adamw"
    compute_bytes: int = 2
    """Bytes of a number in activations: 2 for bfloat16, 4 for float32."""
    loss_chunk_tokens: int = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Bytes on one process at the fullest moment of a step."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    gathered_bytes: int
    """Whole weights of the layers at work when they are sharded, else their casts."""
    activations_bytes: int
    """Kept by all layers for the backward pass."""
    recomputed_bytes: int
    """Activations of the one layer that is being computed again."""
    logits_bytes: int

    @property
    def states_bytes(self) -> int:
        """Weights, gradients and optimizer states: what stays between steps."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        """Sum of all parts."""
        at_work = self.gathered_bytes + self.recomputed_bytes + self.logits_bytes
        return self.states_bytes + self.activations_bytes + at_work


def optimizer_bytes(shape: ModelShape, optimizer: Literal["adamw", "muon"]) -> int:
    """Return bytes of the optimizer's states, unsharded.

    AdamW keeps two moments per parameter; Muon one momentum per matrix of a layer, and AdamW for
    the embedding, the output and the vectors.
    """
    states = 2 * shape.parameters
    if optimizer == "muon":
        states -= shape.layer_matrices_parameters
    return MASTER_BYTES * states


def step_memory(shape: ModelShape, settings: StepSettings) -> StepMemory:
    """Return the memory of a step under ``settings``.

    ``full`` sharding divides the states by the processes and keeps two layers' whole weights, the
    one at work and the one being fetched, beside the embedding and the output matrix.
    """
    shards = settings.num_processes if settings.sharding == "full" else 1
    master = _share(MASTER_BYTES * shape.parameters, shards)
    kept = _activations(shape, settings, settings.recompute)
    one_layer = _activations(shape, settings, "none") // shape.num_layers
    logits = settings.loss_chunk_tokens * shape.vocab_size * MASTER_BYTES * _LOGIT_COPIES
    return StepMemory(
        weights_bytes=master,
        gradients_bytes=master,
        optimizer_bytes=_share(optimizer_bytes(shape, settings.optimizer), shards),
        gathered_bytes=_gathered(shape, settings, shards),
        activations_bytes=kept,
        recomputed_bytes=0 if settings.recompute == "none" else one_layer,
        logits_bytes=logits,
    )


def _activations(shape: ModelShape, settings: StepSettings, recompute: Recompute) -> int:
    return saved_activation_bytes(
        shape,
        tokens=settings.pack_tokens,
        recompute=recompute,
        element_bytes=settings.compute_bytes,
    )


def _gathered(shape: ModelShape, settings: StepSettings, shards: int) -> int:
    """Return bytes of weights that exist besides the masters while layers are at work."""
    if shards > 1:
        at_work = 2 * shape.layer_matrix_parameters + shape.table_parameters
        return settings.compute_bytes * at_work
    if settings.compute_bytes == MASTER_BYTES:
        return 0
    # A cast matrix is kept for the backward pass, so every layer holds its own.
    matrices = shape.layer_matrices_parameters + shape.output_parameters
    if settings.recompute != "none":
        matrices = shape.layer_matrix_parameters + shape.output_parameters
    return settings.compute_bytes * matrices


def _share(total: int, shards: int) -> int:
    return -(-total // shards)
