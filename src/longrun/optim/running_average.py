"""A float32 mean of the weights, kept while training goes on.

After update n (from 1) the mean moves towards the weights by ``1 - min(decay, 1 - 1 / n)``::

    mean = mean * keep + weights * (1 - keep)        keep = min(decay, (n - 1) / n)

Early on that is the plain mean of all weights so far, so the starting point leaves no trace; from
update ``1 / (1 - decay)`` on it forgets exponentially. Source: Polyak & Juditsky 1992; the bound
that grows with n as in Buchlovsky et al. 2019 (arXiv:1902.02286), section 3.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from longrun.optim.groups import NamedParameter


class RunningAverage:
    """The mean of parameters, sharded as they are; the parameters themselves are not changed."""

    def __init__(self, parameters: Iterable[NamedParameter], decay: float) -> None:
        """Begin without any update; ``decay`` is between 0 and 1."""
        self._parameters = dict(parameters)
        self._decay = decay
        self._mean = {
            name: torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, count: int) -> None:
        """Take in the weights after update number ``count``, from 1."""
        keep = min(self._decay, (count - 1) / count)
        weights = [_local(parameter).float() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(map(_local, self._mean.values())), weights, 1.0 - keep)

    def state(self) -> dict[str, Tensor]:
        """Return the means themselves, not copies, by the name of the parameter."""
        return dict(self._mean)

    @contextmanager
    def in_place_of_the_weights(self) -> Iterator[None]:
        """Let the parameters hold the mean inside the block, and the weights again after it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            weights, mean = _local(parameter), _local(self._mean[name])
            kept = weights.clone()
            weights.copy_(mean)
            mean.copy_(kept)


def _local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
