"""The kernels behind ``longrun.nn.attention.attend``; nobody else calls them.

Each backend is a forward and a backward function. They run below autograd: inputs are plain
tensors, and the gradients are formed by formula or by the kernel's own backward. The gradient
of the output arrives contiguous.

``segments = (cu_q, cu_k, max_q, max_k)``; ``saved = (q, k, v, o, lse)`` of the forward pass.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

Segments = tuple[Tensor, Tensor, int, int]
Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor]
Forward = Callable[[Tensor, Tensor, Tensor, Segments, float], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Saved, Segments, float], Gradients]

VARLEN_MAX_HEAD_DIM = 256
VARLEN_MIN_CAPABILITY = (8, 0)
LSE_ALIGNMENT = 32
"""The memory-efficient CUDA kernel pads its log-sum-exp to this many queries."""
BIAS_ALIGNMENT = 16
"""The memory-efficient CUDA kernel wants bias rows aligned to this many elements."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums over values of ``dtype``: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def varlen_obstacle(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why the built-in variable-length flash kernel cannot run; None: it can."""
    if device.type != "cuda":
        return f"it needs a CUDA device, not {device.type}"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash attention"
    capability = torch.cuda.get_device_capability(device)
    if capability < VARLEN_MIN_CAPABILITY:
        return f"compute capability {capability} is below {VARLEN_MIN_CAPABILITY}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 or bfloat16, not {dtype}"
    if head_dim > VARLEN_MAX_HEAD_DIM or head_dim % 8:
        return f"head_dim {head_dim} is not a multiple of 8 up to {VARLEN_MAX_HEAD_DIM}"
    return None


def _pairs(segments: Segments) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of the queries and of the keys of every document that has queries here."""
    starts_q, starts_k = segments[0].tolist(), segments[1].tolist()
    for index in range(len(starts_q) - 1):
        rows_q = slice(starts_q[index], starts_q[index + 1])
        rows_k = slice(starts_k[index], starts_k[index + 1])
        num_q, num_k = rows_q.stop - rows_q.start, rows_k.stop - rows_k.start
        if num_k < num_q:
            raise ValueError(f"document {index}: {num_q} queries but only {num_k} keys")
        if num_q:
            yield rows_q, rows_k


def _hidden_keys(num_q: int, num_k: int, device: torch.device) -> Tensor:
    """Return the bottom-right causal mask, [num_q, num_k]: True where a key is NOT seen."""
    return torch.ones(num_q, num_k, dtype=torch.bool, device=device).triu(num_k - num_q + 1)


def _as_batch(x_THD: Tensor) -> Tensor:
    """View one document as the [1, H, T, D] that scaled-dot-product kernels take."""
    return x_THD.transpose(0, 1)[None]


def _from_batch(x_1HTD: Tensor) -> Tensor:
    return x_1HTD[0].transpose(0, 1)


# --- reference -----------------------------------------------------------------------------------


def _heads_first(x_SKD: Tensor, groups: int) -> Tensor:
    """Return [H, S, D] in the accumulation dtype, every key-value head repeated for its group."""
    x = x_SKD.to(accumulation_dtype(x_SKD.dtype)).transpose(0, 1)
    return x.repeat_interleave(groups, 0)


def _reference_scores(q_THD: Tensor, k_SKD: Tensor, scale: float) -> Tensor:
    groups = q_THD.shape[1] // k_SKD.shape[1]
    scores_HTS = _heads_first(q_THD, 1) @ _heads_first(k_SKD, groups).mT * scale
    hidden = _hidden_keys(q_THD.shape[0], k_SKD.shape[0], q_THD.device)
    return scores_HTS.masked_fill_(hidden, -torch.inf)


def _reference_forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    o, lse = _empty_outputs(q)
    groups = q.shape[1] // k.shape[1]
    for rows_q, rows_k in _pairs(segments):
        scores_HTS = _reference_scores(q[rows_q], k[rows_k], scale)
        lse[:, rows_q] = scores_HTS.logsumexp(-1)
        o_HTD = scores_HTS.softmax(-1) @ _heads_first(v[rows_k], groups)
        o[rows_q] = o_HTD.transpose(0, 1).to(o.dtype)
    return o, lse


def _reference_backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    groups = q.shape[1] // k.shape[1]
    for rows_q, rows_k in _pairs(segments):
        scores_HTS = _reference_scores(q[rows_q], k[rows_k], scale)
        chances_HTS = (scores_HTS - lse[:, rows_q, None]).exp()
        do_HTD, o_HTD = _heads_first(do[rows_q], 1), _heads_first(o[rows_q], 1)
        dchances_HTS = do_HTD @ _heads_first(v[rows_k], groups).mT
        shift_HT1 = (do_HTD * o_HTD).sum(-1, keepdim=True)
        dscores_HTS = chances_HTS * (dchances_HTS - shift_HT1) * scale
        dq_HTD = dscores_HTS @ _heads_first(k[rows_k], groups)
        dq[rows_q] = dq_HTD.transpose(0, 1).to(dq.dtype)
        dk[rows_k] = _sum_groups(dscores_HTS.mT @ _heads_first(q[rows_q], 1), groups, dk.dtype)
        dv[rows_k] = _sum_groups(chances_HTS.mT @ do_HTD, groups, dv.dtype)
    return dq, dk, dv


def _sum_groups(x_HSD: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Sum the heads of each group: [H, S, D] to [S, K, D]."""
    x_KGSD = x_HSD.view(-1, groups, *x_HSD.shape[1:])
    return x_KGSD.sum(1).transpose(0, 1).to(dtype)


def _empty_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=accumulation_dtype(q.dtype))
    return q.new_empty(q.shape), lse


# --- sdpa ----------------------------------------------------------------------------------------


def _sdpa_forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    kernel = _efficient_forward if q.is_cuda else _flash_cpu_forward
    o, lse = _empty_outputs(q)
    for rows_q, rows_k in _pairs(segments):
        part_o, part_lse = kernel(
            _as_batch(q[rows_q]), _as_batch(k[rows_k]), _as_batch(v[rows_k]), scale
        )
        o[rows_q] = _from_batch(part_o)
        lse[:, rows_q] = part_lse[0]
    return o, lse


def _sdpa_backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    kernel = _efficient_backward if q.is_cuda else _flash_cpu_backward
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows_q, rows_k in _pairs(segments):
        part_q, part_k, part_v = _as_batch(q[rows_q]), _as_batch(k[rows_k]), _as_batch(v[rows_k])
        part = (part_q, part_k, part_v, _as_batch(o[rows_q]), lse[None, :, rows_q])
        grads = kernel(_as_batch(do[rows_q]), part, scale)
        dq[rows_q], dk[rows_k], dv[rows_k] = (_from_batch(grad) for grad in grads)
    return dq, dk, dv


def _cpu_mask(q: Tensor, k: Tensor) -> Tensor | None:
    """Return an additive mask where the kernel's own top-left causal mask would be wrong."""
    num_q, num_k = q.shape[2], k.shape[2]
    if num_q == num_k:
        return None
    mask = torch.zeros(num_q, num_k, dtype=q.dtype)
    return mask.masked_fill_(_hidden_keys(num_q, num_k, q.device), -torch.inf)


def _flash_cpu_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    mask = _cpu_mask(q, k)
    o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
    )
    return o, lse


def _flash_cpu_backward(do: Tensor, saved: Saved, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    mask = _cpu_mask(q, k)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        do, q, k, v, o, lse, 0.0, mask is None, attn_mask=mask, scale=scale
    )
    return dq, dk, dv


def _efficient_bias(q: Tensor, k: Tensor) -> Tensor | None:
    """Return an additive mask [1, H, T, S] for unequal lengths, rows aligned as the kernel asks."""
    num_q, num_k = q.shape[2], k.shape[2]
    if num_q == num_k:
        return None
    columns = num_k + -num_k % BIAS_ALIGNMENT
    bias = q.new_zeros(num_q, columns)
    bias[:, :num_k].masked_fill_(_hidden_keys(num_q, num_k, q.device), -torch.inf)
    return bias[:, :num_k].expand(1, q.shape[1], -1, -1)


def _efficient_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    bias = _efficient_bias(q, k)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    o, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, bias is None, scale=scale
    )
    return o, lse[..., : q.shape[2]]


def _efficient_backward(do: Tensor, saved: Saved, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    bias = _efficient_bias(q, k)
    groups = q.shape[1] // k.shape[1]
    wide_k, wide_v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    lse = functional.pad(lse, (0, -lse.shape[-1] % LSE_ALIGNMENT), value=torch.inf)
    unused = torch.zeros((), dtype=torch.int64, device=q.device)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        do,
        q,
        wide_k,
        wide_v,
        bias,
        o,
        lse.contiguous(),
        unused,
        unused,
        0.0,
        [True, True, True, False],
        bias is None,
        scale=scale,
    )
    dk, dv = (x.view(1, -1, groups, *x.shape[2:]).sum(2) for x in (dk, dv))
    return dq, dk, dv


# --- torch_varlen --------------------------------------------------------------------------------


def _varlen_forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    o, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, *segments, 0.0, True, False, scale=scale
    )
    return o, lse


def _varlen_backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    # Without dropout the kernel reads neither the random state nor the unused tensor.
    random_state = torch.zeros(2, dtype=torch.uint64, device=q.device)
    unused = torch.empty(0, device=q.device)
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        do,
        q,
        k,
        v,
        o,
        lse,
        *segments,
        0.0,
        True,
        random_state,
        unused,
        scale=scale,
    )
    return dq, dk, dv


FORWARD: dict[str, Forward] = {
    "reference": _reference_forward,
    "sdpa": _sdpa_forward,
    "torch_varlen": _varlen_forward,
}
BACKWARD: dict[str, Backward] = {
    "reference": _reference_backward,
    "sdpa": _sdpa_backward,
    "torch_varlen": _varlen_backward,
}
