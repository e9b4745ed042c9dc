"""The oracle: attention by plain formulas, one document after the other, in float32 or float64."""

import torch
from torch import Tensor

from longrun.nn.kernels.segments import (
    Gradients,
    Kernel,
    Saved,
    Segments,
    accumulation_dtype,
    empty_outputs,
    hidden_keys,
    no_obstacle,
    pairs,
)


def _heads_first(x_SKD: Tensor, groups: int) -> Tensor:
    """Return [H, S, D] in the accumulation dtype, every key-value head repeated for its group."""
    x = x_SKD.to(accumulation_dtype(x_SKD.dtype)).transpose(0, 1)
    return x.repeat_interleave(groups, 0)


def _scores(q_THD: Tensor, k_SKD: Tensor, scale: float) -> Tensor:
    groups = q_THD.shape[1] // k_SKD.shape[1]
    scores_HTS = _heads_first(q_THD, 1) @ _heads_first(k_SKD, groups).mT * scale
    hidden = hidden_keys(q_THD.shape[0], k_SKD.shape[0], q_THD.device)
    return scores_HTS.masked_fill_(hidden, -torch.inf)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    o, lse = empty_outputs(q)
    groups = q.shape[1] // k.shape[1]
    for rows_q, rows_k in pairs(segments):
        scores_HTS = _scores(q[rows_q], k[rows_k], scale)
        lse[:, rows_q] = scores_HTS.logsumexp(-1)
        o_HTD = scores_HTS.softmax(-1) @ _heads_first(v[rows_k], groups)
        o[rows_q] = o_HTD.transpose(0, 1).to(o.dtype)
    return o, lse


def _backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    groups = q.shape[1] // k.shape[1]
    for rows_q, rows_k in pairs(segments):
        scores_HTS = _scores(q[rows_q], k[rows_k], scale)
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


KERNEL = Kernel(_forward, _backward, no_obstacle, device_boundaries=False)
