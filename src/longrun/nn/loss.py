"""Cross entropy of a linear output layer without its logits matrix.

``sum(weight * nll)`` over the positions of a pack. Positions of weight 0 (prompts, padding) are
dropped before the matrix product; the others pass in chunks, and the gradients are formed in
the same pass, so that memory holds the logits of one chunk only. The caller divides by the sum of
the weights of the whole batch.

For one chunk with hidden states h, targets y and weights w::

    z = h W'        nll = logsumexp(z) - z[y]        loss += sum(w * nll)
    g = w * (softmax(z) - onehot(y))        dh = g W        dW += g' h

With the vocabulary cut over processes, each forms its own columns of z; the maximum, the sum of
exponentials and the target's logit are combined, and dh is each process's part of a sum.

Sums are float32 (float64 for float64 inputs), the sum over positions float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longrun.nn.kernels import accumulation_dtype


def _alone(values: Tensor) -> None:
    """Combine nothing: all rows are here."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Which rows of the output matrix are here, and how to combine with the other rows' holders."""

    first: int
    """The token id of the first row."""
    take_maximum: Callable[[Tensor], None]
    """Replace every element by its maximum over the holders, in place."""
    take_sum: Callable[[Tensor], None]
    """Replace every element by its sum over the holders, in place."""


WHOLE_VOCABULARY = Vocabulary(0, _alone, _alone)


def linear_cross_entropy(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    weights_T: Tensor,
    *,
    chunk_tokens: int,
    vocabulary: Vocabulary = WHOLE_VOCABULARY,
) -> Tensor:
    """Return ``sum(weights * nll)``, a scalar in float32 (float64 for float64 inputs).

    ``weight_VH`` may have a wider dtype than ``hidden_TH`` (float32 masters of a bfloat16 model):
    the products are computed in the dtype of ``hidden_TH`` and the gradient of ``weight_VH`` is
    accumulated and returned without rounding to it. No supervised position: exactly 0, with
    gradients of exactly 0. ``chunk_tokens`` bounds the logits held at once, to
    ``chunk_tokens * V`` numbers; it changes nothing but rounding. With a ``vocabulary`` that is
    cut, ``weight_VH`` has the rows of this process, all holders call together with equal tokens
    and the gradient of ``hidden_TH`` is this process's part of a sum.
    """
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; at least 1 is needed")
    wants = hidden_TH.requires_grad, weight_VH.requires_grad
    wanted = tuple(torch.is_grad_enabled() and want for want in wants)
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch does not annotate it
        hidden_TH, weight_VH, targets_T, weights_T, chunk_tokens, wanted, vocabulary
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Forms the gradients of the sum in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        targets_T: Tensor,
        weights_T: Tensor,
        chunk_tokens: int,
        wanted: tuple[bool, bool],
        vocabulary: Vocabulary,
    ) -> Tensor:
        accumulate = accumulation_dtype(hidden_TH.dtype)
        dhidden = torch.zeros_like(hidden_TH) if wanted[0] else None
        dweight = torch.zeros_like(weight_VH, dtype=accumulate) if wanted[1] else None
        narrow_VH = weight_VH.to(hidden_TH.dtype)
        total = torch.zeros((), dtype=torch.float64, device=hidden_TH.device)
        supervised = weights_T.nonzero()[:, 0]
        for rows in torch.split(supervised, chunk_tokens) if len(supervised) else ():
            x_NH, weights_N = hidden_TH[rows], weights_T[rows].to(accumulate)
            nll_N, dlogits_NV = _nll_and_gradient(
                x_NH @ narrow_VH.T, targets_T[rows] - vocabulary.first, weights_N, vocabulary
            )
            total += (nll_N.double() * weights_N).sum()
            if dhidden is not None:
                dhidden[rows] = dlogits_NV @ narrow_VH
            if dweight is not None:
                _add_product(dweight, dlogits_NV.T, x_NH)
        ctx.weight_dtype = weight_VH.dtype
        ctx.save_for_backward(dhidden, dweight)
        return total.to(accumulate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dweight = ctx.saved_tensors
        if dhidden is not None:
            dhidden = dhidden * gradient.to(dhidden.dtype)
        if dweight is not None:
            dweight = (dweight * gradient).to(ctx.weight_dtype)
        return dhidden, dweight, None, None, None, None, None


def _nll_and_gradient(
    logits_NV: Tensor, columns_N: Tensor, weights_N: Tensor, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor]:
    """Return (nll [N], gradient of ``sum(weights * nll)`` [N, V] in the dtype of the logits).

    ``columns_N``: the column of each target; outside of 0 .. V - 1 when another process holds it.
    """
    chances = logits_NV.to(weights_N.dtype)
    largest_N1 = chances.amax(-1, keepdim=True)
    vocabulary.take_maximum(largest_N1)
    chances = chances.sub_(largest_N1)
    is_here_N1 = ((columns_N >= 0) & (columns_N < chances.shape[1]))[:, None]
    column_N1 = columns_N[:, None].where(is_here_N1, 0)
    target_logits = chances.gather(1, column_N1) * is_here_N1
    combined_2N1 = torch.stack((chances.exp_().sum(-1, keepdim=True), target_logits))
    vocabulary.take_sum(combined_2N1)
    sums, target_logits = combined_2N1
    nll = sums.log() - target_logits
    chances.mul_(weights_N[:, None] / sums)
    chances.scatter_add_(1, column_N1, -weights_N[:, None] * is_here_N1)
    return nll[:, 0], chances.to(logits_NV.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``total`` in place; each product is rounded once, to the dtype of ``a``."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
