"""Time of one optimizer step, modelled from operations, bytes and assumed rates; nothing measured.

Per rank of a layout with tensor size t and context size c, for a micro-step of n tokens in
documents whose squared lengths sum to Q (both before the cut), every part divided as stated:

    products    n * (6 * matrices + 2 * recomputed) / matrix rate                     / (c * t)
    attention   2 * L * q * Q * (1 or 2) / forward rate + 5 * L * q * Q / backward rate / (c * t)
    pointwise   n * bytes / memory rate                                               / (c * t)
    tensor      L * (4 forward + 4 backward [+ 3 recomputed]) * n / c * 2 * d * (t - 1) / t / link
    context     L * (1 forward + 1 backward [+ 1]) * n * 2 * kv * 2 * (c - 1) / c / t / link

``matrices``: parameters of the layers' matrices and of the output matrix. L layers, d hidden, q
query and kv key channels; a number on a link has 2 bytes (4 with float32). All five are linear in
n and Q, so a micro-step is ``n * per_token + Q * per_square``.

Weights: ``full`` gathers every layer twice in a micro-step and scatters float32 gradients once;
``states`` does each once in a step; ``replicate`` sums whole gradients once. Layers are fetched
while others compute, so only what is longer than ``OVERLAP`` of the computation is waited for,
and ``EXPOSED`` of it always.

Worked, Qwen2.5-7B, one 32,768-token document, no recomputation, one H100 with the assumed rates:
products 32,768 * 6 * 7.07 G / 640 T = 2.17 s; attention 28 * 3584 * 32,768**2 * (2 / 335 T + 5 /
320 T) = 2.33 s; pointwise 32,768 * 15.0 MB / 2.9 T = 0.17 s; in all 4.67 s, 7,020 tokens a second.
"""

from dataclasses import dataclass

from longrun.nn.costs import ModelShape, Recompute, recomputed_parameters
from longrun.parallel.layouts import Layout
from longrun.plan.settings import FilledRates

OVERLAP = 0.8
"""Share of the computation behind which fetching weights hides; an assumption."""
EXPOSED = 0.1
"""Share of fetching weights that is never hidden; an assumption."""
EAGER_TRAFFIC = 2.5
"""Bytes that pointwise operations move when layers are not compiled, over fused ones; assumed."""
OPTIMIZER_BYTES = 30
"""Bytes that a fused AdamW step reads and writes per parameter."""
_GRADIENT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The cluster as the formulas see it."""

    rates: FilledRates
    node_size: int
    """GPUs of one machine."""

    def link(self, ranks: int) -> float:
        """Return bytes per second and GPU between neighbours that span ``ranks`` ranks."""
        rates = self.rates
        inside = ranks <= self.node_size
        giga = rates.node_gigabytes_per_second if inside else rates.network_gigabytes_per_second
        return giga * 1e9

    def collect_seconds(self, size: float, members: int, stride: int) -> float:
        """Return the time in which each of ``members`` ranks gets ``size`` bytes, its own included.

        Members are ``stride`` ranks apart. Between machines all GPUs of a machine fetch for all, so
        the machine's links together carry what its neighbours lack.
        """
        if members == 1:
            return 0.0
        inside = max(1, min(members, self.node_size // stride))
        seconds = size * (members - 1) / members / (self.rates.node_gigabytes_per_second * 1e9)
        if inside == members:
            return seconds
        missing = size * (1 - inside / members) / inside
        return max(seconds, missing / (self.rates.network_gigabytes_per_second * 1e9))


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Seconds of a micro-step on each of the ranks that share it."""

    per_token: float
    per_square: float
    """Per squared token of a document's length."""
    talking_per_token: float
    """The part of ``per_token`` in which tensor and context peers exchange activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How the layers compute."""

    recompute: Recompute
    element_bytes: int = 2
    """Of a number in activations and gathered weights."""
    compiled: bool = True


def unit_costs(shape: ModelShape, layout: Layout, work: Work, machine: Machine) -> UnitCosts:
    """Return what a token and a squared token cost each rank of ``layout``."""
    split = layout.tensor * layout.context
    rates, layers = machine.rates, shape.num_layers
    again = recomputed_parameters(shape, work.recompute)
    products = 6 * (shape.layer_matrices_parameters + shape.output_parameters) + 2 * layers * again
    # Half the rate for numbers of twice the size is kind to float32.
    slower = work.element_bytes / 2
    per_token = products / (rates.matrix_tflops * 1e12) * slower
    traffic = pointwise_bytes(shape, work)
    per_token += traffic / (rates.memory_terabytes_per_second * 1e12)
    talking = _tensor_seconds(shape, layout, work, machine) * split
    talking += _context_seconds(shape, layout, work, machine) * split
    forward = 2.0 * (2 if work.recompute == "full" else 1)
    per_square = forward / rates.attention_forward_tflops + 5.0 / rates.attention_backward_tflops
    per_square *= layers * shape.query_size / 1e12 * slower
    return UnitCosts((per_token + talking) / split, per_square / split, talking / split)


def pointwise_bytes(shape: ModelShape, work: Work) -> float:
    """Return bytes per token that pointwise operations and the loss move, fused or eager."""
    d, q, k, f = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
    forward = 8 * d + 2 * (q + 2 * k) + 3 * f
    backward = 8 * d + 2 * (q + 2 * k) + 6 * f
    passes = forward * (1 if work.recompute == "none" else 2) + backward
    fused = work.element_bytes * shape.num_layers * passes
    return fused * (1 if work.compiled else EAGER_TRAFFIC) + 8 * shape.vocab_size


def _tensor_seconds(shape: ModelShape, layout: Layout, work: Work, machine: Machine) -> float:
    """Return seconds per token for gathering and scattering the tokens around every block."""
    if layout.tensor == 1:
        return 0.0
    # Two gathers and two scatters forward, their adjoints backward; recomputing a layer needs both
    # gathers and the scatter between its blocks again.
    exchanges = 8 + (3 if work.recompute in ("all_but_attention", "full") else 0)
    size = work.element_bytes * shape.hidden_size * (layout.tensor - 1) / layout.tensor
    seconds = shape.num_layers * exchanges * size / layout.context
    return seconds / machine.link(layout.tensor)


def _context_seconds(shape: ModelShape, layout: Layout, work: Work, machine: Machine) -> float:
    """Return seconds per token for gathering keys and values and scattering their gradients."""
    if layout.context == 1:
        return 0.0
    exchanges = 2 + (1 if work.recompute in ("all_but_attention", "full") else 0)
    size = work.element_bytes * 2 * shape.kv_size / layout.tensor
    size *= (layout.context - 1) / layout.context
    seconds = shape.num_layers * exchanges * size
    return seconds / machine.link(layout.tensor * layout.context)


def weights_seconds(
    shape: ModelShape,
    layout: Layout,
    work: Work,
    machine: Machine,
    *,
    micro_steps: int,
    compute_seconds: float,
) -> float:
    """Return the seconds of a step in which a rank waits for weights and gradients.

    ``compute_seconds``: of one micro-step.
    """
    own = shape.parameters / layout.tensor
    weights, gradients = work.element_bytes * own, _GRADIENT_BYTES * own
    gather = machine.collect_seconds(weights, layout.shards, layout.tensor)
    scatter = machine.collect_seconds(gradients, layout.shards, layout.tensor)
    # A sum over copies is a scatter and a gather of what each rank of a copy holds.
    stride = layout.tensor * layout.shards
    copies = 2 * machine.collect_seconds(gradients / layout.shards, layout.replicas, stride)
    if layout.sharding == "full":
        return micro_steps * _exposed(2 * gather + scatter + copies, compute_seconds)
    if layout.sharding == "states":
        return _exposed(gather + scatter + copies, compute_seconds)
    if layout.tensor > 1:  # cut matrices are summed after every micro-step
        return micro_steps * _exposed(copies, compute_seconds)
    # One flat sum after the last micro-step hides behind nothing.
    return copies


def optimizer_seconds(shape: ModelShape, layout: Layout, machine: Machine) -> float:
    """Return the seconds of the optimizer on one rank."""
    own = shape.parameters / (layout.tensor * layout.shards)
    return own * OPTIMIZER_BYTES / (machine.rates.memory_terabytes_per_second * 1e12)


def _exposed(seconds: float, compute_seconds: float) -> float:
    return max(0.0, seconds - OVERLAP * compute_seconds) + EXPOSED * seconds
