"""Rotary position embeddings as Hugging Face computes them: float32 angles, halves rotated.

The frequencies are formed afresh in every forward pass from ``Arch``. They are never stored in a
buffer, so that no conversion of the model's dtype can round them.
"""

import math

import torch
from torch import Tensor

from longrun.nn.architecture import Arch
from longrun.nn.positions import Llama3RopeScaling, YarnRopeScaling


def inverse_frequencies(arch: Arch, device: torch.device) -> Tensor:
    """Return the angle per position of every channel pair, [head_dim / 2] float32, radians."""
    channels = torch.arange(0, arch.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / arch.rope_theta ** (channels / arch.head_dim)
    if isinstance(arch.rope_scaling, Llama3RopeScaling):
        return _stretch(frequencies, arch.rope_scaling)
    if isinstance(arch.rope_scaling, YarnRopeScaling):
        return _blend(frequencies, arch, arch.rope_scaling)
    return frequencies


def _stretch(frequencies: Tensor, scaling: Llama3RopeScaling) -> Tensor:
    """Divide slow rotations by ``factor``, leave fast ones, blend between.

    Slow: fewer than ``low_freq_factor`` turns over the original positions; fast: more than
    ``high_freq_factor``. Source: Llama 3.1 (``rope_type: llama3``).
    """
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    share = ((turns - scaling.low_freq_factor) / width).clamp(0.0, 1.0)
    return (1 - share) * frequencies / scaling.factor + share * frequencies


def _blend(frequencies: Tensor, arch: Arch, scaling: YarnRopeScaling) -> Tensor:
    """Divide slow channels by ``factor``, leave fast ones, blend along a line between them.

    The channel that turns ``n`` times over the original positions P is
    ``head_dim * ln(P / (2 pi n)) / (2 ln theta)``. Source: YaRN (arXiv:2309.00071), section 3.2.
    """

    def channel(turns: float) -> float:
        wavelengths = math.log(scaling.original_max_positions / (turns * 2 * math.pi))
        return arch.head_dim * wavelengths / (2 * math.log(arch.rope_theta))

    first = max(math.floor(channel(scaling.beta_fast)), 0)
    last = min(math.ceil(channel(scaling.beta_slow)), arch.head_dim - 1)
    channels = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    width = (
        last - first or 1e-3
    )  # below 0 where all of the channels are fast, as transformers has it
    slow = ((channels - first) / width).clamp(0.0, 1.0)
    return frequencies / scaling.factor * slow + frequencies * (1 - slow)


def rotation(arch: Arch, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (cosines, sines), both [T, 1, head_dim] in ``dtype``; the angles are float32.

    Under YaRN both are multiplied with its attention factor.
    """
    frequencies = inverse_frequencies(arch, positions_T.device)
    angles = positions_T.float()[:, None] * frequencies
    angles_T1D = torch.cat((angles, angles), -1)[:, None]
    scaling = arch.rope_scaling
    gain = scaling.attention_factor if isinstance(scaling, YarnRopeScaling) else 1.0
    return (angles_T1D.cos() * gain).to(dtype), (angles_T1D.sin() * gain).to(dtype)


def rotate(x_THD: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn every pair (channel c, channel c + D/2) by the angle of its position."""
    first, second = x_THD.chunk(2, -1)
    return x_THD * cosines + torch.cat((-second, first), -1) * sines
