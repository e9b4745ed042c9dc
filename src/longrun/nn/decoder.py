"""The decoder of Qwen2, Qwen3, Llama and Mistral, with Hugging Face parameter names.

Written as for one device: no part of it knows that it may be sharded, and no part of it has a
batch dim, because the tokens of a pack are one sequence [T]. Parameters are masters in their own
dtype and are cast to ``compute_dtype`` where they are used, so a float32 model with
``compute_dtype`` bfloat16 computes what a bfloat16 Hugging Face model computes.

Seams for parallelism: every matrix is a ``Projection`` or ``Embedding`` with one ``weight``, the
attention core is ``layer.self_attn.core``, and a layer is one module that takes and returns
[T, hidden]. Shapes: T tokens, H heads or hidden channels, K key-value heads, D channels of a head,
V vocabulary.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longrun.nn.arch import Arch
from longrun.nn.attention import Boundaries, PackedAttention
from longrun.nn.layout import PackLayout
from longrun.nn.loss import linear_cross_entropy
from longrun.nn.rope import rotate, rotation

Recompute = Literal["none", "full"]
Rotation = tuple[Tensor, Tensor]


class Projection(nn.Module):
    """A linear map, computed in the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Module):
    """A table of token vectors."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return [T, hidden] in the dtype of the parameters."""
        return functional.embedding(tokens_T, self.weight)


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
        return self.weight.to(x.dtype) * normed.to(x.dtype)


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
        self.core = PackedAttention(backend, arch.head_dim)

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
    """One decoder layer; with ``recompute`` "full" it keeps its input only."""

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
        kept: Tensor = checkpoint(
            self._compute, x_TH, rope, where, use_reentrant=False, preserve_rng_state=False
        )
        return kept

    def _compute(self, x_TH: Tensor, rope: Rotation, where: Boundaries) -> Tensor:
        x_TH = x_TH + self.self_attn(self.input_layernorm(x_TH), rope, where)
        out_TH: Tensor = x_TH + self.mlp(self.post_attention_layernorm(x_TH))
        return out_TH


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
        if arch.tied:
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

    def forward(self, layout: PackLayout) -> Tensor:
        """Return the hidden states after the final norm, [T, hidden] in ``compute_dtype``."""
        where = Boundaries.of(layout, self.backend)
        rope = rotation(self.arch, layout.positions, self.compute_dtype)
        x_TH = self.model.embed_tokens(layout.tokens).to(self.compute_dtype)
        for layer in self.model.layers:
            x_TH = layer(x_TH, rope, where)
        return self.model.norm(x_TH)  # type: ignore[no-any-return]  # modules return Any

    def loss(self, layout: PackLayout, *, chunk_tokens: int = 1024) -> Tensor:
        """Return ``sum(weight * nll)`` over the pack, a float32 scalar; 0 without supervision."""
        return linear_cross_entropy(
            self.forward(layout),
            self.lm_head.weight,
            layout.targets,
            layout.weights,
            chunk_tokens=chunk_tokens,
        )

    def logits(self, layout: PackLayout) -> Tensor:
        """Return all logits, [T, V] in ``compute_dtype``: for verification, never for training."""
        return self.lm_head(self.forward(layout))  # type: ignore[no-any-return]  # modules return Any
