"""Weights in halves: every bit comes back, and a step with them is the step with whole ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError
from torch import nn

from longrun.config.training import OptimizerSettings
from longrun.optim.optimizers import build_optimizers
from longrun.optim.split import join, split

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 40), elements=FINITE))
def test_halves_give_back_every_bit_and_the_upper_one_is_the_nearest_bfloat16(values):
    weights = torch.from_numpy(values)
    upper, rest = split(weights)
    assert torch.equal(join(upper, rest).view(torch.int32), weights.view(torch.int32))
    is_tie = weights.view(torch.int32) & 0xFFFF == 0x8000
    assert torch.equal(upper[~is_tie], weights[~is_tie].bfloat16())
    assert (upper[is_tie].float().abs() > weights[is_tie].abs()).all()
    assert (upper.dtype, rest.dtype) == (torch.bfloat16, torch.int16)


def test_the_worked_trace():
    bits = torch.tensor([0x3F808001, 0x3F807FFF, 0x3F808000, 0x3F818000], dtype=torch.int32)
    upper, rest = split(bits.view(torch.float32))
    assert upper.view(torch.int16).tolist() == [0x3F81, 0x3F80, 0x3F81, 0x3F82]
    assert rest.tolist() == [-0x7FFF, 0x7FFF, -0x8000, -0x8000]
    assert torch.equal(join(upper, rest).view(torch.int32), bits)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(5, 7, generator=generator))
        self.vector = nn.Parameter(torch.randn(7, generator=generator))


def test_steps_with_halves_are_bitwise_those_with_whole_weights():
    whole, halves = Two(), Two()
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    plain = build_optimizers(whole, OptimizerSettings(**settings))
    optimizers = build_optimizers(halves, OptimizerSettings(**settings, weights="split"))
    assert halves.matrix.dtype == torch.bfloat16
    assert halves.vector.dtype == torch.float32
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        plain.step(1e-2 / (step + 1))
        optimizers.step(1e-2 / (step + 1))
        assert torch.equal(optimizers.split.whole()["matrix"], whole.matrix)
        assert torch.equal(halves.matrix, whole.matrix.bfloat16())
        assert torch.equal(halves.vector, whole.vector)
    assert plain.state().keys() == optimizers.state().keys()


def test_whole_weights_that_are_loaded_become_halves():
    model = Two()
    optimizers = build_optimizers(model, OptimizerSettings(weights="split"))
    loaded = optimizers.split.whole()["matrix"] + 1e-4
    optimizers.split.take({"matrix": loaded, "another": torch.zeros(2)})
    assert torch.equal(optimizers.split.whole()["matrix"], loaded)


@pytest.mark.parametrize("other", [{"states": "int8"}, {"name": "muon"}, {"average_decay": 0.9}])
def test_what_would_need_whole_weights_is_refused(other):
    with pytest.raises(ValidationError, match="weights split needs name adamw"):
        OptimizerSettings(weights="split", **other)
