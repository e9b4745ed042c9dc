"""Rotary embeddings: relative, norm-preserving, and stretched as Llama 3.1 says."""

from dataclasses import replace

import torch

from longrun.nn.positions import Llama3RopeScaling
from longrun.nn.rope import inverse_frequencies, rotate, rotation

CPU = torch.device("cpu")


def test_scores_depend_on_the_distance_only(tiny_arch):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, generator=generator, dtype=torch.float64)

    def score(query_position: int, key_position: int) -> float:
        at_q, at_k = (
            rotation(tiny_arch, torch.tensor([place]), torch.float64)
            for place in (query_position, key_position)
        )
        return float((rotate(q, *at_q) * rotate(k, *at_k)).sum())

    assert abs(score(9, 4) - score(105, 100)) < 1e-5
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_keeps_the_length_of_every_vector_and_leaves_position_zero_alone(tiny_arch):
    x = torch.randn(6, 3, 8, dtype=torch.float64)
    turned = rotate(x, *rotation(tiny_arch, torch.arange(6), torch.float64))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(turned[0], x[0])


def test_stretches_slow_rotations_only(tiny_arch):
    scaling = Llama3RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64
    )
    plain = inverse_frequencies(tiny_arch, CPU)
    stretched = inverse_frequencies(replace(tiny_arch, rope_scaling=scaling), CPU)
    turns = 64 * plain / (2 * torch.pi)
    assert torch.equal(stretched[turns > 4], plain[turns > 4])
    torch.testing.assert_close(stretched[turns < 1], plain[turns < 1] / 8)
    assert (turns > 4).any()
    assert (turns < 1).any()


def test_forms_the_angles_in_float32_whatever_the_model_computes_in(tiny_arch):
    positions = torch.tensor([32_767])
    cosines, _ = rotation(tiny_arch, positions, torch.bfloat16)
    exact, _ = rotation(tiny_arch, positions, torch.float32)
    assert torch.equal(cosines, exact.bfloat16())
