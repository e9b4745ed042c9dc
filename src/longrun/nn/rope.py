"""Rotary position embeddings as Hugging Face computes them: float32 angles, halves rotated.

The frequencies are formed afresh in every forward pass from ``Arch``. They are never stored in a
buffer, so that no conversion of the model's dtype can round them.
"""

import math

import torch
from torch import Tensor

from longrun.nn.arch import Arch, Llama3RopeScaling


def inverse_frequencies(arch: Arch, device: torch.device) -> Tensor:
    """Return the angle per position of every channel pair, [head_dim / 2] float32, radians."""
    channels = torch.arange(0, arch.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / arch.rope_theta ** (channels / arch.head_dim)
    if arch.rope_scaling is None:
        return frequencies
    return _stretch(frequencies, arch.rope_scaling)


def _stretch(frequencies: Tensor, scaling: Llama3RopeScaling) -> Tensor:
    """Divide slow rotations by ``factor``, leave fast ones, blend between.

    Slow: fewer than ``low_freq_factor`` turns over the original positions; fast: more than
    ``high_freq_factor``. Source: Llama 3.1 (``rope_type: llama3``).
    """
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    share = ((turns - scaling.low_freq_factor) / width).clamp(0.0, 1.0)
    return (1 - share) * frequencies / scaling.factor + share * frequencies


def rotation(arch: Arch, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (cosines, sines), both [T, 1, head_dim] in ``dtype``; the angles are float32."""
    frequencies = inverse_frequencies(arch, positions_T.device)
    angles = positions_T.float()[:, None] * frequencies
    angles_T1D = torch.cat((angles, angles), -1)[:, None]
    return angles_T1D.cos().to(dtype), angles_T1D.sin().to(dtype)


def rotate(x_THD: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn every pair (channel c, channel c + D/2) by the angle of its position."""
    first, second = x_THD.chunk(2, -1)
    return x_THD * cosines + torch.cat((-second, first), -1) * sines
