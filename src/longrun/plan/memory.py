"""Memory of one training step on the fullest rank: what the engine keeps, part by part.

Counts tensors: states, gathered weights, activations, the loss. It leaves out the workspace of
kernels and fragmentation; ``RUNTIME_BYTES`` stands for the device's context and communication
buffers. Checked against the engine on tensors without data (``bench/fake_memory.py``) and against
the resident memory of real runs (``bench/real_memory.py``).

A step is fullest at one of three moments, with every layer's activations kept in all of them:

    loss            the last chunk of logits, beside the gradient of the output matrix
    loss, backward  that gradient is scaled, so it is there twice
    a layer         one layer is computed again and its gradients are formed

Trace for Qwen2.5-7B (7.616 G parameters), bfloat16, one process, no recomputation, compiled, a
32,768-token pack, GiB: weights 28.4, gradients 28.4, AdamW's moments 56.7, bfloat16 copies of the
layers' matrices 12.2, activations 135.7; at the loss: hidden states, gradients of them and of the
output matrix, its copy and two chunks of logits 5.6. In all 266.9 and the runtime.
"""

from dataclasses import dataclass
from typing import Literal

from longrun.nn.costs import ModelShape, Recompute
from longrun.parallel.layouts import Layout
from longrun.plan.settings import OptimizerName, States, Weights

MASTER_BYTES = 4
"""Weights, gradients and optimizer states are float32."""
_MOMENT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1 + 4 / 64}
"""Bytes of one number of a moment; with ``int8``, 64 numbers share a float32 scale."""
RUNTIME_BYTES = 2 << 30
"""The device's own context and communication buffers; an assumption."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """The settings of ``train`` that decide the memory of a step, beside its layout."""

    pack_tokens: int
    """Tokens of one pack; a micro-step is at most as long."""
    recompute: Recompute = "none"
    optimizer: OptimizerName = "adamw"
    states: States = "float32"
    """Type of AdamW's moments."""
    weights: Weights = "float32"
    """``split``: the layers' matrices need no copies in the compute type."""
    compute_bytes: int = 2
    """Bytes of a number in activations: 2 for bfloat16, 4 for float32."""
    compiled: bool = True
    loss_chunk_tokens: int = 1024
    micro_steps: int = 2
    """Micro-steps of a step; with more than one, ``states`` adds gradients up unsharded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Bytes on one rank at the fullest moment of a step."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    gathered_bytes: int
    """Whole weights of the layers at work when they are sharded, and casts of them."""
    activations_bytes: int
    """Kept by all layers for the backward pass."""
    work_bytes: int
    """What comes and goes: the loss, or the layer that is computed backward."""
    moment: Literal["loss", "loss, backward", "a layer"]
    """When the step is fullest."""
    runtime_bytes: int = RUNTIME_BYTES

    @property
    def states_bytes(self) -> int:
        """Weights, gradients and optimizer states: what stays between steps."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        """Sum of all parts."""
        at_work = self.gathered_bytes + self.activations_bytes + self.work_bytes
        return self.states_bytes + at_work + self.runtime_bytes


def optimizer_bytes(
    shape: ModelShape, optimizer: OptimizerName = "adamw", states: States = "float32"
) -> int:
    """Return bytes of the optimizer's states, unsharded.

    AdamW keeps two moments per parameter, those of matrices in ``states``; Muon one momentum per
    matrix of a layer, and AdamW for the embedding, the output and the vectors.
    """
    matrices = shape.layer_matrices_parameters + shape.table_parameters
    moments = 2 * MASTER_BYTES * shape.vector_parameters
    if optimizer == "muon":
        return moments + MASTER_BYTES * (matrices + shape.table_parameters)
    return moments + int(2 * _MOMENT_BYTES[states] * matrices)


def step_memory(shape: ModelShape, layout: Layout, settings: StepSettings) -> StepMemory:
    """Return the memory of a step on the fullest rank of ``layout``."""
    shards = layout.tensor * layout.shards
    master = _share(MASTER_BYTES * shape.parameters, shards)
    gradients = master
    if layout.sharding == "states" and settings.micro_steps > 1:
        gradients = _share(MASTER_BYTES * shape.parameters, layout.tensor)
    rank = _Rank(shape, layout, settings)
    moments = {
        "loss": (rank.gathered(num_layers=1), rank.loss_work()),
        "loss, backward": (rank.gathered(num_layers=1), rank.loss_backward_work()),
        "a layer": (rank.gathered(num_layers=2), rank.layer_work()),
    }
    moment, (gathered, work) = max(moments.items(), key=lambda item: sum(item[1]))
    return StepMemory(
        weights_bytes=master,
        gradients_bytes=gradients,
        optimizer_bytes=_share(optimizer_bytes(shape, settings.optimizer, settings.states), shards),
        gathered_bytes=gathered,
        activations_bytes=shape.num_layers * rank.tokens * rank.kept_per_token(settings.recompute),
        work_bytes=work,
        moment=moment,  # type: ignore[arg-type]  # the keys are the literals
    )


@dataclass(frozen=True, slots=True)
class _Rank:
    """One rank of a layout: its tokens, its part of every matrix, and what they take."""

    shape: ModelShape
    layout: Layout
    settings: StepSettings

    @property
    def tokens(self) -> int:
        """Tokens of a micro-step on this rank and its tensor peers."""
        return _share(self.settings.pack_tokens, self.layout.context)

    @property
    def _casts(self) -> bool:
        """Whether whole float32 weights are cast to the compute type where they are used."""
        wide = self.settings.compute_bytes == MASTER_BYTES
        return not wide and not self._is_sharded()

    def gathered(self, num_layers: int) -> int:
        """Return bytes of weights beside the masters while ``num_layers`` layers are at work."""
        shape, size = self.shape, self.settings.compute_bytes
        cut = size * shape.layer_matrix_parameters
        if self.layout.sharding == "full":
            return (num_layers * cut + size * shape.table_parameters) // self.layout.tensor
        if self._is_sharded():
            return size * shape.parameters // self.layout.tensor
        if not self._casts or self.settings.weights == "split":
            return 0
        # The backward pass needs every cast again, unless the layers are computed again.
        return cut * (shape.num_layers if self.settings.recompute == "none" else 1)

    def kept_per_token(self, recompute: Recompute) -> int:
        """Return bytes that one layer keeps per token of this rank for its backward pass.

        Between blocks a rank has 1/t of the tokens (t: tensor); a block gathers all of them. Keys
        and values are those of the whole pack (context times this rank's).
        """
        shape, size, tensor = self.shape, self.settings.compute_bytes, self.layout.tensor
        d, q, f = shape.hidden_size, shape.query_size // tensor, shape.intermediate_size // tensor
        own_kv = shape.kv_size // tensor
        kv = own_kv * self.layout.context
        log_sums = MASTER_BYTES * shape.num_heads // tensor
        match recompute:
            case "full":
                return size * d // tensor
            case "all_but_attention":
                return size * (d // tensor + q) + log_sums
            case "pointwise" if self.settings.compiled and tensor == 1:
                return size * (2 * d + 2 * q + 2 * kv + 2 * f) + log_sums
            case "pointwise":
                # Every product and all that came from peers, needed or not.
                peers = 2 * d + 2 * d // tensor if tensor > 1 else 0
                keys = 2 * own_kv + (2 * kv if self.layout.context > 1 else 0)
                return size * (d // tensor + 2 * d + 2 * q + keys + 2 * f + peers) + log_sums
        norms = self._norms_per_token()
        if self.settings.compiled:
            return size * (2 * q + 2 * kv + 3 * f) + norms + log_sums
        return size * (2 * q + 2 * kv + 4 * f) + norms + log_sums

    def _norms_per_token(self) -> int:
        """Return bytes that the two norms of a layer keep: inputs, and outputs of their own."""
        d, size, tensor = self.shape.hidden_size, self.settings.compute_bytes, self.layout.tensor
        outputs = size * d
        if self.settings.compiled:
            return 2 * (size * d // tensor + outputs)
        # The float32 input, the rounded result before it is scaled, and the output.
        return 2 * ((MASTER_BYTES + size) * d // tensor + outputs)

    def _logits(self) -> int:
        rows = min(self.settings.loss_chunk_tokens, self.tokens)
        return rows * self.shape.vocab_size // self.layout.tensor

    def _hidden(self) -> int:
        return self.settings.compute_bytes * self.tokens * self.shape.hidden_size

    def _output(self) -> int:
        return self.shape.output_parameters // self.layout.tensor

    def _kept_by_loss(self) -> int:
        """Return bytes that the final norm and the loss keep for the backward pass."""
        d, tensor = self.shape.hidden_size, self.layout.tensor
        norm = (MASTER_BYTES + self.settings.compute_bytes) * self.tokens * d // tensor
        return norm + self._hidden() + MASTER_BYTES * self._output()

    def loss_work(self) -> int:
        """Return bytes while the last chunk of logits is there."""
        size = self.settings.compute_bytes
        copy = size * self._output() if self._casts else 0
        # bfloat16: the last chunk's gradients, these logits, wide and rounded; float32: in place.
        per_logit = 3 * size + MASTER_BYTES if size < MASTER_BYTES else 2 * size
        return self._kept_by_loss() + self._hidden() + copy + per_logit * self._logits()

    def loss_backward_work(self) -> int:
        """Return bytes while the gradients of the loss are scaled."""
        size = self.settings.compute_bytes
        rounded = size * self._output() if size < MASTER_BYTES and not self._casts else 0
        scaled = MASTER_BYTES * self._output() + rounded + self._hidden()
        return self._kept_by_loss() + scaled

    def layer_work(self) -> int:
        """Return bytes while the last layer is computed backward."""
        shape, size, tensor = self.shape, self.settings.compute_bytes, self.layout.tensor
        d, recompute, again = shape.hidden_size, self.settings.recompute, 0
        if recompute != "none":
            again = self.kept_per_token("none") - self.kept_per_token(recompute)
        # Gradients of the gated product and of its two factors, less the product itself.
        flowing = size * (2 * shape.intermediate_size // tensor + d + d // tensor)
        return self.tokens * (max(again, 0) + flowing) + self._gradients_at_work()

    def _gradients_at_work(self) -> int:
        """Return bytes of weights' gradients that have not reached their place yet."""
        shape, size, tensor = self.shape, self.settings.compute_bytes, self.layout.tensor
        if self._is_sharded():
            # One layer's are on their way in float32; the output matrix waits for the embedding.
            return MASTER_BYTES * shape.layer_matrix_parameters // tensor + size * self._output()
        matrix = (size + MASTER_BYTES) * shape.hidden_size * shape.intermediate_size
        return matrix + (MASTER_BYTES * self._output() if shape.tied else 0)

    def _is_sharded(self) -> bool:
        """Say whether the engine spreads the parameters: FSDP2 gathers and reduces them then."""
        return self.layout.sharding != "replicate" or self.layout.tensor > 1


def _share(total: int, parts: int) -> int:
    return -(-total // parts)
