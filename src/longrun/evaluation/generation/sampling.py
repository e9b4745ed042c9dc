"""Choose the next token of every row; pure functions on logits.

Every row brings its own uniform number, so what one row draws does not depend on which other rows
share its batch, nor on how many there are. It holds up to the rounding of the logits, which does
depend on the shape of the batch: a tie within rounding may fall the other way.
"""

import torch
from torch import Tensor

_MOST_LIKELY = (512, 8192)
"""Tokens that are looked at first: finding them costs a fraction of sorting a large vocabulary."""


def choose_greedy(logits_BV: Tensor) -> Tensor:
    """Return the most likely token of each row: int64 [B]."""
    return logits_BV.argmax(-1)


def choose_by_chance(
    logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_p: float
) -> Tensor:
    """Return one token per row, drawn at ``temperature`` from the ``top_p`` nucleus: int64 [B].

    The nucleus is the smallest set of most likely tokens whose probabilities reach ``top_p``
    (Holtzman et al. 2020, arXiv:1904.09751); of equally likely tokens the lower one comes first.
    ``uniforms_B`` lie in [0, 1); the token is the first whose cumulative probability exceeds that
    share of the nucleus.
    """
    probabilities_BV = torch.softmax(logits_BV.float() / temperature, -1)
    if top_p == 1.0:
        return _draw(probabilities_BV, uniforms_B)
    return _draw_from_nucleus(probabilities_BV, uniforms_B, top_p)


def _draw_from_nucleus(probabilities_BV: Tensor, uniforms_B: Tensor, top_p: float) -> Tensor:
    """Draw from the nucleus of each row, looked for among its most likely tokens first.

    The result is that of sorting every row whole: the tokens looked at are in the order of the
    sort, and where mass or a tie reaches beyond them more are looked at, at last all.
    """
    vocab_size = probabilities_BV.shape[-1]
    chosen_B = torch.empty_like(uniforms_B, dtype=torch.int64)
    left_R = torch.arange(len(uniforms_B), device=uniforms_B.device)
    probabilities_RV = probabilities_BV
    for count in (*(some for some in _MOST_LIKELY if some < vocab_size), vocab_size):
        sorted_RK, tokens_RK = _most_likely(probabilities_RV, count)
        outside_RK = sorted_RK.cumsum(-1) - sorted_RK >= top_p
        index_R = _draw(sorted_RK.masked_fill(outside_RK, 0.0), uniforms_B[left_R])
        chosen_B[left_R] = tokens_RK.gather(-1, index_R[:, None]).squeeze(-1)
        # Not found: the nucleus ends with the last token looked at, or with one as likely, so it
        # may go on, or topk may have taken another of the equal ones than the sort would.
        least_R = sorted_RK.masked_fill(outside_RK, 2.0).amin(-1)
        open_R = least_R <= sorted_RK[:, -1]
        left_R, probabilities_RV = left_R[open_R], probabilities_RV[open_R]
        if not len(left_R):
            break
    return chosen_B


def _most_likely(probabilities_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest probabilities, falling, and their tokens; equal ones by token."""
    if count == probabilities_RV.shape[-1]:
        found_RV = probabilities_RV.sort(dim=-1, descending=True, stable=True)
        return found_RV.values, found_RV.indices
    tokens_RK = probabilities_RV.topk(count, sorted=False).indices.sort(dim=-1).values
    found_RK = probabilities_RV.gather(-1, tokens_RK).sort(dim=-1, descending=True, stable=True)
    return found_RK.values, tokens_RK.gather(-1, found_RK.indices)


def _draw(weights_RK: Tensor, uniforms_R: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds its share of the total: int64 [R]."""
    cumulative_RK = weights_RK.double().cumsum(-1)
    bound_R1 = uniforms_R.double()[:, None] * cumulative_RK[:, -1:]
    index_R1 = torch.searchsorted(cumulative_RK, bound_R1, right=True)
    return index_R1.clamp_(max=weights_RK.shape[-1] - 1).squeeze(-1)
