"""The decoder of Qwen2, Qwen3, Llama and Mistral, with Hugging Face parameter names.

Written as for one device, and no part of it has a batch dim, because the tokens of a pack are one
sequence [T]. Parameters are masters in their own dtype and are cast to ``compute_dtype`` where
they are used, so a float32 model with ``compute_dtype`` bfloat16 computes what a bfloat16 Hugging
Face model computes.

Seams for parallelism, which is applied from outside (``longrun.parallel``): every matrix is a
``Projection`` or ``Embedding`` with one ``weight``, of which a process computes with its
``own_part``; head counts follow from the matrices; the attention core is ``layer.self_attn.core``;
a layer is one module that takes and returns [T, hidden]; ``vocabulary`` says which rows of the
output matrix are here. Shapes: T tokens, H heads or hidden channels, K key-value heads, D channels
of a head, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from longrun.nn.architecture import Arch
from longrun.nn.attention import Boundaries, PackedAttention
from longrun.nn.costs import Recompute
from longrun.nn.loss import WHOLE_VOCABULARY, linear_cross_entropy
from longrun.nn.pack import PackTensors
from longrun.nn.rope import rotate, rotation

Rotation = tuple[Tensor, Tensor]
_MATRIX_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


def own_part(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the part of ``parameter`` that this process computes with, in ``dtype``.

    A parameter that is cut over the tensor axis is stored as a ``DTensor``. Of one that is repeated
    there, every process sees other tokens or heads, so its gradients are to be added up.
    """
    if isinstance(parameter, DTensor):
        gradient = [Partial() if place.is_replicate() else place for place in parameter.placements]
        parameter = parameter.to_local(grad_placements=gradient)
    return parameter.to(dtype)


class Projection(nn.Module):
    """A linear map, computed in the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs]."""
        bias = None if self.bias is None else own_part(self.bias, x.dtype)
        return functional.linear(x, own_part(self.weight, x.dtype), bias)


class Embedding(nn.Module):
    """A table of token vectors."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return [T, hidden] in the dtype of the parameters."""
        return functional.embedding(tokens_T, own_part(self.weight, self.weight.dtype))


class RMSNorm(nn.Module):
    """Divide by the root mean square in float32, round, then scale, as Hugging Face does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` normalised over its last dim, in its own dtype."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = functional.rms_norm(wide, self.weight.shape, None, self.eps)
        return own_part(self.weight, x.dtype) * normed.to(x.dtype)


class Attention(nn.Module):
    """Queries, keys and values, their rotation, the packed core, and the output map."""

    def __init__(self, arch: Arch, backend: str) -> None:
        super().__init__()
        self.head_dim = arch.head_dim
        query_size, kv_size = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
        self.q_proj = Projection(arch.hidden_size, query_size, bias=arch.qkv_bias)
        self.k_proj = Projection(arch.hidden_size, kv_size, bias=arch.qkv_bias)
        self.v_proj = Projection(arch.hidden_size, kv_size, bias=arch.qkv_bias)
        self.o_proj = Projection(query_size, arch.hidden_size, bias=arch.output_bias)
        self.q_norm = RMSNorm(arch.head_dim, arch.norm_eps) if arch.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(arch.head_dim, arch.norm_eps) if arch.qk_norm else nn.Identity()
        self.core: nn.Module = PackedAttention(backend, arch.head_dim)

    def forward(self, x_TH: Tensor, rope: Rotation, where: Boundaries) -> Tensor:
        """Return [T, hidden]."""
        heads = -1, self.head_dim
        q_THD = self.q_norm(self.q_proj(x_TH).unflatten(-1, heads))
        k_TKD = self.k_norm(self.k_proj(x_TH).unflatten(-1, heads))
        v_TKD = self.v_proj(x_TH).unflatten(-1, heads)
        o_THD = self.core(rotate(q_THD, *rope), rotate(k_TKD, *rope), v_TKD, where)
        return self.o_proj(o_THD.flatten(1))  # type: ignore[no-any-return]  # modules return Any


class MLP(nn.Module):
    """The gated feed-forward network (SwiGLU)."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.gate_proj = Projection(arch.hidden_size, arch.intermediate_size)
        self.up_proj = Projection(arch.hidden_size, arch.intermediate_size)
        self.down_proj = Projection(arch.intermediate_size, arch.hidden_size)

    def forward(self, x_TH: Tensor) -> Tensor:
        """Return [T, hidden]."""
        gated = functional.silu(self.gate_proj(x_TH)) * self.up_proj(x_TH)
        return self.down_proj(gated)  # type: ignore[no-any-return]  # modules return Any


class Layer(nn.Module):
    """One decoder layer; ``recompute`` says what it keeps for the backward pass."""

    def __init__(self, arch: Arch, backend: str, recompute: Recompute) -> None:
        super().__init__()
        self.recompute = recompute
        self.self_attn = Attention(arch, backend)
        self.mlp = MLP(arch)
        self.input_layernorm = RMSNorm(arch.hidden_size, arch.norm_eps)
        self.post_attention_layernorm = RMSNorm(arch.hidden_size, arch.norm_eps)

    def forward(self, x_TH: Tensor, rope: Rotation, where: Boundaries) -> Tensor:
        """Return [T, hidden]."""
        if self.recompute == "none" or not torch.is_grad_enabled():
            return self._compute(x_TH, rope, where)
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if self.recompute != "full":
            options["context_fn"] = _KEEPING[self.recompute]
        kept: Tensor = checkpoint(self._compute, x_TH, rope, where, **options)
        return kept

    def _compute(self, x_TH: Tensor, rope: Rotation, where: Boundaries) -> Tensor:
        x_TH = x_TH + self.self_attn(self.input_layernorm(x_TH), rope, where)
        out_TH: Tensor = x_TH + self.mlp(self.post_attention_layernorm(x_TH))
        return out_TH


def _keeps_products(operation: Any) -> bool:
    """Keep matrix products, attention and what came from other processes."""
    return operation in _MATRIX_PRODUCTS or operation.namespace == "longrun"


def _keeps_attention(operation: Any) -> bool:
    return bool(operation == torch.ops.longrun.attend.default)


def _contexts(keeps: Callable[[Any], bool]) -> Any:
    def policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = keeps(operation)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]  # torch


_KEEPING: dict[Recompute, Callable[[], Any]] = {
    "pointwise": partial(_contexts, _keeps_products),
    "all_but_attention": partial(_contexts, _keeps_attention),
}


class Backbone(nn.Module):
    """The part that Hugging Face calls ``model``: embedding, layers, final norm."""

    def __init__(self, arch: Arch, backend: str, recompute: Recompute) -> None:
        super().__init__()
        self.embed_tokens = Embedding(arch.vocab_size, arch.hidden_size)
        self.layers = nn.ModuleList(Layer(arch, backend, recompute) for _ in range(arch.num_layers))
        self.norm = RMSNorm(arch.hidden_size, arch.norm_eps)


class Decoder(nn.Module):
    """A causal language model over packs. Parameters are uninitialised until loaded or drawn."""

    def __init__(
        self,
        arch: Arch,
        *,
        backend: str,
        recompute: Recompute = "none",
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build the parameters in torch's default dtype; ``backend`` as ``choose_backend`` gave it.

        ``compute_dtype`` is the dtype of the activations and matrix products.
        """
        super().__init__()
        self.arch = arch
        self.backend = backend
        self.compute_dtype = compute_dtype
        self.model = Backbone(arch, backend, recompute)
        self.lm_head = Projection(arch.hidden_size, arch.vocab_size)
        self.vocabulary = WHOLE_VOCABULARY
        self.tie()

    def layers(self) -> list[Layer]:
        """Return the layers, in their order."""
        return list(self.model.layers)  # type: ignore[arg-type]  # a ModuleList forgets its type

    def tie(self) -> None:
        """Make the output matrix of a tied model the embedding matrix, again after a change."""
        if self.arch.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def initialise(self, seed: int, std: float = 0.02) -> None:
        """Draw every matrix from a normal distribution; norms become 1 and biases 0.

        Drawn on the CPU in the order of the parameters: equal on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def forward(self, layout: PackTensors) -> Tensor:
        """Return the hidden states after the final norm, [T, hidden] in ``compute_dtype``."""
        where = Boundaries.of(layout, self.backend)
        rope = rotation(self.arch, layout.positions, self.compute_dtype)
        x_TH = self.model.embed_tokens(layout.tokens).to(self.compute_dtype)
        for layer in self.layers():
            x_TH = layer(x_TH, rope, where)
        return self.model.norm(x_TH)  # type: ignore[no-any-return]  # modules return Any

    def loss(self, layout: PackTensors, *, chunk_tokens: int = 1024) -> Tensor:
        """Return ``sum(weight * nll)`` over the pack, a float32 scalar; 0 without supervision."""
        return linear_cross_entropy(
            self.forward(layout),
            own_part(self.lm_head.weight, self.lm_head.weight.dtype),
            layout.targets,
            layout.weights,
            chunk_tokens=chunk_tokens,
            vocabulary=self.vocabulary,
        )

    def logits(self, layout: PackTensors) -> Tensor:
        """Return the logits of the rows that are here, [T, V] in ``compute_dtype``.

        For verification, never for training.
        """
        return self.lm_head(self.forward(layout))  # type: ignore[no-any-return]  # modules return Any
