"""Float32 weights kept in two halves, so that the model computes with the upper one as it is.

A bfloat16 is the upper 16 bits of a float32, rounded. The hidden matrices are held as bfloat16
parameters and 16 more bits that give back the exact float32, and are joined for the update only.
What is saved is the cast copy that every matrix would keep for the backward pass, 2 bytes a weight.

The upper half is the nearest bfloat16, as a cast would give it, but for exact ties (one weight in
65,536): they go away from zero, where a cast takes the even neighbour; with the even one 16 bits
could not tell both neighbours' ties apart. Trace, with the bits in hexadecimal::

    3F80 8001   rounds up to 3F81, rest -7FFF      3F81 0000 - 7FFF = 3F80 8001
    3F80 7FFF   rounds down to 3F80, rest +7FFF    3F80 0000 + 7FFF = 3F80 7FFF
    3F80 8000   a tie, up to 3F81, rest -8000      3F81 0000 - 8000 = 3F80 8000
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from longrun.errors import ConfigError
from longrun.optim.groups import NamedParameter, is_hidden_matrix


def split(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (nearest bfloat16, rest int16) of finite float32 ``weights``."""
    bits = weights.contiguous().view(torch.int32)
    upper = (bits + 0x8000) >> 16
    rest = bits - (upper << 16)
    return upper.to(torch.int16).view(torch.bfloat16), rest.to(torch.int16)


def join(upper: Tensor, rest: Tensor) -> Tensor:
    """Return the float32 whose halves these are, bit for bit."""
    return (upper.float().view(torch.int32) + rest).view(torch.float32)


class SplitWeights:
    """The hidden matrices of a model in halves; everything else stays float32."""

    def __init__(self, parameters: Iterable[NamedParameter]) -> None:
        """Split every hidden matrix among ``parameters``, in place.

        Raises:
            ConfigError: this torch cannot give a gradient another type than its parameter.
        """
        self._rests: dict[str, Tensor] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        for name, parameter in parameters:
            if is_hidden_matrix(name, parameter):
                if not hasattr(parameter, "grad_dtype"):
                    raise ConfigError(
                        f"train.optimizer.weights: split needs a torch with Tensor.grad_dtype, not"
                        f" {torch.__version__}; leave it at float32"
                    )
                self._parameters[name] = parameter
                self._store(name, parameter.detach())
                # Gradients are added up as for a float32 weight.
                parameter.grad_dtype = torch.float32

    @contextmanager
    def joined(self, name: str) -> Iterator[None]:
        """Let the parameter ``name`` be float32 inside the block; changes are kept."""
        if name not in self._parameters:
            yield
            return
        parameter = self._parameters[name]
        parameter.data = join(parameter.detach(), self._rests[name])
        try:
            yield
        finally:
            self._store(name, parameter.detach())

    def whole(self) -> dict[str, Tensor]:
        """Return every split matrix in float32, as copies, by name."""
        return {
            name: join(parameter.detach(), self._rests[name])
            for name, parameter in self._parameters.items()
        }

    def take(self, whole: Mapping[str, Tensor]) -> None:
        """Take over float32 matrices by name, such as ``whole`` returns; others are ignored."""
        for name in self._parameters.keys() & whole.keys():
            self._store(name, whole[name])

    def _store(self, name: str, weights: Tensor) -> None:
        self._parameters[name].data, self._rests[name] = split(weights)
