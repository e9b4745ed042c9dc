"""Which parameters an optimizer treats alike, by their names and shapes.

Weight decay pulls on matrices only: norms and biases have no scale that it could bound. Muon is
made for the hidden matrices; the embedding and the output matrix are tables of one row per token
and stay with AdamW. Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers".
"""

from collections.abc import Iterable

from torch import nn

NamedParameter = tuple[str, nn.Parameter]
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""Matrices with one row per token of the vocabulary."""


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Say whether ``parameter`` maps hidden channels to hidden channels."""
    return parameter.ndim == 2 and name not in TABLES


def decay_groups(
    parameters: Iterable[NamedParameter], weight_decay: float
) -> list[dict[str, object]]:
    """Return the groups for a torch optimizer: matrices with ``weight_decay``, the rest with 0.

    The order inside a group is that of ``parameters``; an empty group is left out.
    """
    matrices: list[NamedParameter] = []
    others: list[NamedParameter] = []
    for name, parameter in parameters:
        (matrices if parameter.ndim >= 2 else others).append((name, parameter))
    groups = ((matrices, weight_decay), (others, 0.0))
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]
