"""Choose the next token of every row; pure functions on logits.

Every row brings its own uniform number, so what one row draws does not depend on which other rows
share its batch, nor on how many there are. It holds up to the rounding of the logits, which does
depend on the shape of the batch: a tie within rounding may fall the other way.
"""

import torch
from torch import Tensor


def choose_greedy(logits_BV: Tensor) -> Tensor:
    """Return the most likely token of each row: int64 [B]."""
    return logits_BV.argmax(-1)


def choose_by_chance(
    logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_p: float
) -> Tensor:
    """Return one token per row, drawn at ``temperature`` from the ``top_p`` nucleus: int64 [B].

    The nucleus is the smallest set of most likely tokens whose probabilities reach ``top_p``
    (Holtzman et al. 2020, arXiv:1904.09751). ``uniforms_B`` lie in [0, 1); the token is the first
    whose cumulative probability exceeds that share of the nucleus.
    """
    probabilities_BV = torch.softmax(logits_BV.float() / temperature, -1)
    if top_p < 1.0:
        probabilities_BV, tokens_BV = probabilities_BV.sort(stable=True, descending=True)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        probabilities_BV = probabilities_BV.masked_fill(before_BV >= top_p, 0.0)
    cumulative_BV = probabilities_BV.double().cumsum(-1)
    bound_B1 = uniforms_B.double()[:, None] * cumulative_BV[:, -1:]
    index_B1 = torch.searchsorted(cumulative_BV, bound_B1, right=True)
    index_B1 = index_B1.clamp_(max=logits_BV.shape[-1] - 1)
    return (index_B1 if top_p == 1.0 else tokens_BV.gather(-1, index_B1)).squeeze(-1)
