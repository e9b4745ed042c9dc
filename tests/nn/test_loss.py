"""Laws of ``longrun.nn.loss``, against the plain formula in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from longrun.nn.loss import linear_cross_entropy


def inputs(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(37, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(29, 12, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 29, (37,), generator=generator)
    weights = torch.randint(0, 3, (37,), generator=generator) / 2
    return (
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(),
        targets,
        weights.float(),
    )


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    nll = functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    return (nll * weights).sum()


def gradients_of(loss: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk_tokens", [1, 5, 36, 37, 1000])
def test_equals_the_plain_formula_whatever_the_chunk(chunk_tokens):
    data = inputs()
    loss = linear_cross_entropy(*data, chunk_tokens=chunk_tokens)
    expected = naive(*data)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for got, want in zip(
        gradients_of(loss * 0.3, *data[:2]), gradients_of(expected * 0.3, *data[:2]), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_passes_gradcheck():
    hidden, weight, targets, weights = inputs()
    torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, weights, chunk_tokens=7), (hidden, weight)
    )


def test_returns_float32_for_float32_and_is_close_to_float64():
    data, exact = inputs(torch.float32), inputs()
    loss = linear_cross_entropy(*data, chunk_tokens=8)
    assert loss.dtype == torch.float32
    expected = naive(*exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for got, want in zip(
        gradients_of(loss, *data[:2]), gradients_of(expected, *exact[:2]), strict=True
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_keeps_the_gradient_of_float32_weights_under_bfloat16_products():
    hidden, weight, targets, weights = inputs(torch.bfloat16)
    master = weight.detach().float().requires_grad_()
    loss = linear_cross_entropy(hidden, master, targets, weights, chunk_tokens=5)
    dhidden, dweight = gradients_of(loss, hidden, master)
    assert (loss.dtype, dhidden.dtype, dweight.dtype) == (
        torch.float32,
        torch.bfloat16,
        torch.float32,
    )
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = naive(*exact, targets, weights)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=0)
    want = gradients_of(expected, *exact)[1]
    assert (dweight.double() - want).norm() < 1e-2 * want.norm()
    assert not torch.equal(dweight, dweight.bfloat16().float())


def test_is_exactly_zero_without_supervision():
    hidden, weight, targets, weights = inputs(torch.float32)
    loss = linear_cross_entropy(hidden, weight, targets, weights * 0, chunk_tokens=8)
    assert loss.item() == 0
    for gradient in gradients_of(loss, hidden, weight):
        assert not gradient.any()


def test_ignores_what_stands_at_unsupervised_positions():
    hidden, weight, targets, weights = inputs(torch.float32)
    poisoned = hidden.detach().clone()
    poisoned[weights == 0] = torch.nan
    poisoned.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets, weights, chunk_tokens=8)
    same = linear_cross_entropy(poisoned, weight, targets, weights, chunk_tokens=8)
    assert torch.equal(loss, same)
    assert not gradients_of(same, poisoned)[0][weights == 0].any()


def test_survives_logits_whose_exponentials_overflow():
    hidden, weight, targets, weights = inputs(torch.float32)
    data = (hidden.detach() * 1e3).requires_grad_(), weight, targets, weights
    loss = linear_cross_entropy(*data, chunk_tokens=8)
    torch.testing.assert_close(loss, naive(*data))
    assert all(gradient.isfinite().all() for gradient in gradients_of(loss, *data[:2]))


def test_never_holds_more_logits_than_one_chunk(monkeypatch):
    shapes = []
    original = torch.Tensor.__matmul__

    def record(a: Tensor, b: Tensor) -> Tensor:
        product = original(a, b)
        shapes.append(product.shape)
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", record)
    hidden, weight, targets, weights = inputs(torch.float32)
    linear_cross_entropy(hidden, weight, targets, weights, chunk_tokens=5)
    logits = [shape for shape in shapes if shape[-1] == 29]
    assert logits
    assert max(shape[0] for shape in logits) == 5
    assert sum(shape[0] for shape in logits) == int((weights > 0).sum())


def test_forms_no_gradients_when_none_are_wanted():
    hidden, weight, targets, weights = inputs(torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, weights, chunk_tokens=8)
    assert not loss.requires_grad
    frozen = weight.detach()
    loss = linear_cross_entropy(hidden, frozen, targets, weights, chunk_tokens=8)
    assert gradients_of(loss, hidden)[0].any()


def test_refuses_a_chunk_of_no_tokens():
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        linear_cross_entropy(*inputs(), chunk_tokens=0)
