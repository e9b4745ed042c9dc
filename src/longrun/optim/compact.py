"""AdamW whose moments take 2 bytes or 1 byte a number instead of 4.

The update itself is computed in float32, from moments that are decoded just before and encoded
just after it, a stretch of rows at a time. Encoding loses digits, so a training with compact
moments is another training than one with float32 moments.

``bfloat16``  both moments with 8 significant bits, rounded up or down at random in proportion
              (Gupta et al. 2015, arXiv:1502.02551): to the nearest would stop a moment whose
              change is below half its last bit. The random bits follow from the parameter's place
              and the step, so a resumed training draws the same ones.
``int8``      every ``BLOCK`` numbers of a row share a float32 scale, their largest magnitude, and
              each is one of 256 fractions of it that lie denser towards 0 ("dynamic" codes,
              Dettmers et al. 2022, arXiv:2110.02861). The second moment is stored as its root,
              which has half the range, and never rounds down to 0: a denominator of 0 under a
              numerator that is not would throw the weight far off.

Codes and scales are tensors of their own, sharded like the parameter, so a checkpoint fits any
layout. Vectors, and matrices whose rows are no multiple of ``BLOCK``, keep float32 moments.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

CompactStates = Literal["bfloat16", "int8"]
BLOCK = 64
"""Numbers that share a scale: divides the rows of every published model under its usual TP."""
STRETCH = 1 << 24
"""Numbers that are decoded at the same time, which bounds the extra memory of a step."""
_DECADES = 7
"""Range of the 8-bit codes: 1 to 1e-7."""
Moment = dict[str, Tensor]
"""The stored tensors of one moment of one parameter: ``{"": values}`` or codes and scales."""


class CompactAdamW(torch.optim.Optimizer):
    """AdamW as ``torch.optim.AdamW``, with moments of a compact type."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        states: CompactStates,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._states = states

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody passes one
        """Change every parameter that has a gradient."""
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state.update(_new_state(parameter, self._states))
                    state["step"] += 1
                    _update(parameter, state, group, index)
                index += 1


def _new_state(parameter: Tensor, states: CompactStates) -> dict[str, Tensor]:
    state = {"step": torch.zeros((), dtype=torch.float32)}
    columns = _local(parameter).shape[-1]
    for moment in ("exp_avg", "exp_avg_root"):
        if parameter.ndim != 2 or (states == "int8" and columns % BLOCK):
            state[moment] = torch.zeros_like(parameter, dtype=torch.float32)
        elif states == "bfloat16":
            state[moment] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        else:
            state[f"{moment}_codes"] = torch.zeros_like(parameter, dtype=torch.uint8)
            state[f"{moment}_scales"] = _scales_like(parameter)
    return state


def _scales_like(parameter: Tensor) -> Tensor:
    """Return scales of 0 for [rows, columns]: [rows, columns / BLOCK], sharded alike."""
    local = _local(parameter)
    scales = torch.zeros(local.shape[0], local.shape[1] // BLOCK, device=local.device)
    if not isinstance(parameter, DTensor):
        return scales
    rows, columns = parameter.shape[0], parameter.shape[1] // BLOCK
    return DTensor.from_local(
        scales,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=torch.Size((rows, columns)),
        stride=(columns, 1),
    )


def _update(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any], index: int) -> None:
    """Take one step with ``parameter``, a stretch of rows after the other."""
    beta1, beta2 = group["betas"]
    step = int(state["step"])
    step_size = group["lr"] / (1.0 - beta1**step)
    correction = (1.0 - beta2**step) ** 0.5
    weights, gradient = _local(parameter.detach()), _local(parameter.grad)
    locals_ = {name: _local(tensor) for name, tensor in state.items() if name != "step"}
    random = torch.Generator(weights.device).manual_seed((index << 32) + step)
    rows = max(1, STRETCH // max(1, weights[:1].numel()))
    for start in range(0, len(weights), rows):
        part = slice(start, start + rows)
        mean, root = (_decode(moment, locals_, part) for moment in ("exp_avg", "exp_avg_root"))
        slope = gradient[part].float()
        mean.lerp_(slope, 1.0 - beta1)
        root.square_().lerp_(slope.square(), 1.0 - beta2).sqrt_()
        weights[part].mul_(1.0 - group["lr"] * group["weight_decay"])
        weights[part].addcdiv_(mean, (root / correction).add_(group["eps"]), value=-step_size)
        _encode("exp_avg", mean, locals_, part, random)
        _encode("exp_avg_root", root, locals_, part, random)


def _decode(moment: str, state: dict[str, Tensor], part: slice) -> Tensor:
    """Return rows ``part`` of a moment in float32, a copy."""
    if moment in state:
        return state[moment][part].to(torch.float32, copy=True)
    codes, scales = state[f"{moment}_codes"][part], state[f"{moment}_scales"][part]
    values = code_values(signed=moment == "exp_avg", device=codes.device)[codes.int()]
    return values.view(*scales.shape, BLOCK).mul_(scales.unsqueeze(-1)).view_as(values)


def _encode(
    moment: str, values: Tensor, state: dict[str, Tensor], part: slice, random: torch.Generator
) -> None:
    """Store float32 ``values`` as rows ``part`` of a moment."""
    if moment not in state:
        codes, scales = encode_int8(values, signed=moment == "exp_avg")
        state[f"{moment}_codes"][part] = codes
        state[f"{moment}_scales"][part] = scales
    elif state[moment].dtype == torch.bfloat16:
        state[moment][part] = round_randomly(values, random)
    else:
        state[moment][part] = values


def encode_int8(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Return codes [rows, columns] uint8 and scales [rows, columns / BLOCK] of [rows, columns].

    Unsigned values above 0 get at least the smallest code above 0.
    """
    blocks = values.view(len(values), -1, BLOCK)
    scales = blocks.abs().amax(-1)
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
    levels = code_values(signed=signed, device=values.device)
    codes = torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2)
    if not signed:
        codes.clamp_(min=1).masked_fill_(shares == 0, 0)
    return codes.to(torch.uint8).view_as(values), scales


@cache
def code_values(*, signed: bool, device: torch.device) -> Tensor:
    """Return the value of each code as a fraction of its scale, [256], ascending, -1 or 0 to 1.

    Each decade below 1 has half the levels of the one above it, evenly spaced. Signed codes are
    the same magnitudes with both signs; 0 stands twice so that both ends are exact.
    """
    count = 128 if signed else 256
    levels = [0.0]
    size = count // 2
    for decade in range(_DECADES):
        top = 10.0**-decade
        here = size if decade < _DECADES - 1 else count - len(levels)
        levels += [top * (0.1 + 0.9 * (place + 1) / here) for place in range(here)]
        size = max(1, size // 2)
    magnitudes = torch.tensor(sorted(levels), dtype=torch.float32)
    if signed:
        magnitudes = torch.cat([-magnitudes.flip(0), magnitudes])
    return magnitudes.to(device)


def round_randomly(values: Tensor, random: torch.Generator) -> Tensor:
    """Round float32 to bfloat16, up or down in proportion to the distance; the mean is kept."""
    bits = values.view(torch.int32)
    noise = torch.randint(
        0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=random
    )
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def _local(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TypeError("a parameter lost its gradient during the step")
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
