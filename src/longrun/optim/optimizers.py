"""The optimizers of one model, seen as one.

The learning rate comes from outside with every step; the optimizers keep moments and nothing
else, so their state is a flat mapping from ``<parameter>.<moment>`` to a tensor.
"""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from longrun.config.training import OptimizerSettings
from longrun.optim.compact import CompactAdamW
from longrun.optim.groups import NamedParameter, decay_groups, is_hidden_matrix
from longrun.optim.split import SplitWeights

MUON_MOMENTUM = 0.95
"""Jordan et al. 2024; with ``match_rms_adamw`` the AdamW learning rate holds for Muon too."""


class Optimizers:
    """AdamW over everything, or Muon over the hidden matrices and AdamW over the rest.

    With ``weights`` "split" the hidden matrices become two halves when this is built.
    """

    def __init__(self, parameters: Iterable[NamedParameter], settings: OptimizerSettings) -> None:
        named = list(parameters)
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in named}
        apart = [pair for pair in named if is_hidden_matrix(*pair)]
        if settings.name == "adamw" and settings.weights == "float32":
            apart = []
        rest = [pair for pair in named if pair[0] not in {name for name, _ in apart}]
        self._members: list[torch.optim.Optimizer] = [_adamw(rest, settings)]
        self.split: SplitWeights | None = None
        """The halves of the hidden matrices, if weights are split."""
        if settings.weights == "split":
            self.split = SplitWeights(apart)
            # One optimizer a matrix: only the one that is being changed is joined.
            self._members += [_adamw([pair], settings) for pair in apart]
        elif apart:
            self._members.append(_muon(apart, settings))

    def step(self, lr: float) -> None:
        """Change every parameter by its gradient, at the learning rate ``lr``."""
        for member in self._members:
            for group in member.param_groups:
                group["lr"] = lr
            with ExitStack() as joined:
                if self.split is not None:
                    for group in member.param_groups:
                        for parameter in group["params"]:
                            joined.enter_context(self.split.joined(self._names[parameter]))
                member.step()

    @torch.no_grad()
    def allocate(self) -> None:
        """Create the moments, all zero, before the first step, so that a load can fill them.

        A step at the learning rate 0 with gradients of 0 moves no parameter. Gradients that were
        attached are detached.
        """
        for parameter in self._names:
            dtype = getattr(parameter, "grad_dtype", None) or parameter.dtype
            parameter.grad = torch.zeros_like(parameter, dtype=dtype)
        self.step(0.0)
        for parameter in self._names:
            parameter.grad = None
        for moment in self.state().values():
            moment.zero_()

    def state(self) -> dict[str, Tensor]:
        """Return the moments themselves, not copies: ``{"<parameter>.<moment>": tensor}``."""
        return {
            f"{self._names[parameter]}.{moment}": value
            for member in self._members
            for parameter, moments in member.state.items()
            for moment, value in moments.items()
        }


def _adamw(parameters: list[NamedParameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    groups = decay_groups(parameters, settings.weight_decay)
    lr, betas, eps = settings.lr, (settings.beta1, settings.beta2), settings.eps
    if settings.states == "float32":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    return CompactAdamW(groups, lr=lr, betas=betas, eps=eps, states=settings.states)


def _muon(parameters: list[NamedParameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        parameters,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=MUON_MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> Optimizers:
    """Build the optimizers of ``model``; a tied matrix is optimized once."""
    return Optimizers(model.named_parameters(), settings)
