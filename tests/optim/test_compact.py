import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.config.training import OptimizerSettings
from longrun.errors import ConfigError
from longrun.optim.compact import BLOCK, code_values, encode_int8, round_randomly
from longrun.optim.optimizers import Optimizers

COMPACT = ("bfloat16", "int8")
CPU = torch.device("cpu")


def parameters(seed: int = 0) -> list[tuple[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"tall": (96, BLOCK), "wide": (6, 3 * BLOCK), "odd": (8, 10), "norm": (BLOCK,)}
    return [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator)))
        for name, shape in shapes.items()
    ]


def give_gradients(named, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in named:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def decode(values: torch.Tensor, *, signed: bool) -> torch.Tensor:
    codes, scales = encode_int8(values, signed=signed)
    shares = code_values(signed=signed, device=CPU)[codes.int()]
    return (shares.unflatten(-1, (-1, BLOCK)) * scales.unsqueeze(-1)).flatten(-2)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.floats(1e-20, 1e20), st.booleans())
def test_codes_are_close_at_every_magnitude_and_exact_when_repeated(seed, scale, signed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 2 * BLOCK, generator=generator) ** 3 * scale
    values = values if signed else values.abs()
    found = decode(values, signed=signed)
    largest = values.unflatten(-1, (-1, BLOCK)).abs().amax(-1).repeat_interleave(BLOCK, -1)
    assert ((found - values).abs() <= 0.0071 * (2 if signed else 1) / 2 * largest * 1.01).all()
    assert torch.equal(found.abs() == largest, values.abs() >= largest * (1 - 0.0071 / 2)) or signed
    assert torch.equal(decode(found, signed=signed), found)


def test_a_denominator_never_becomes_zero_under_a_gradient():
    values = torch.full((1, BLOCK), 1e-12)
    values[0, 0], values[0, 1] = 1.0, 0.0
    found = decode(values, signed=False)
    assert found[0, 1] == 0
    assert (found[0, 2:] > 0).all()


def test_rounding_at_random_keeps_the_mean_and_the_representable():
    generator = torch.Generator().manual_seed(0)
    value = 1.0 + 2.0**-10  # an eighth of the way to the next bfloat16
    rounded = round_randomly(torch.full((1 << 16,), value), generator)
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    assert rounded.double().mean().item() == pytest.approx(value, abs=1e-4)
    exact = torch.randn(99, generator=generator).to(torch.bfloat16)
    assert torch.equal(round_randomly(exact.float(), generator), exact)


@pytest.mark.parametrize("states", COMPACT)
def test_a_moment_that_only_fades_fades_as_it_should(states):
    named = [("matrix", torch.nn.Parameter(torch.zeros(4, BLOCK)))]
    optimizers = Optimizers(named, OptimizerSettings(states=states, beta2=0.999, lr=1e-9))
    for step in range(60):
        named[0][1].grad = torch.ones(4, BLOCK) if step == 0 else torch.zeros(4, BLOCK)
        optimizers.step(1e-9)
    kept = optimizers.state()
    if states == "bfloat16":
        root = kept["matrix.exp_avg_root"].float()
    else:
        codes, scales = kept["matrix.exp_avg_root_codes"], kept["matrix.exp_avg_root_scales"]
        root = code_values(signed=False, device=CPU)[codes.int()] * scales
    assert root.mean().item() == pytest.approx((0.001 * 0.999**59) ** 0.5, rel=0.01)


@pytest.mark.parametrize("states", COMPACT)
def test_steps_are_close_to_those_of_float32(states):
    exact, compact = parameters(), parameters()
    first = Optimizers(exact, OptimizerSettings(weight_decay=0.1))
    second = Optimizers(compact, OptimizerSettings(weight_decay=0.1, states=states))
    for step in range(20):
        for named, optimizers in ((exact, first), (compact, second)):
            give_gradients(named, step)
            optimizers.step(0.01)
    moved = torch.cat(
        [(b - a).flatten() for (_, a), (_, b) in zip(parameters(), exact, strict=True)]
    )
    apart = torch.cat([(b - a).flatten() for (_, a), (_, b) in zip(exact, compact, strict=True)])
    assert apart.norm() < 0.02 * moved.norm()
    for one, two in zip(exact[2:], compact[2:], strict=True):  # these keep float32 with int8
        tolerance = 1e-6 if states == "int8" or one[0] == "norm" else 1e-2
        torch.testing.assert_close(one[1], two[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("states", COMPACT)
def test_a_small_regression_converges_as_with_float32(states):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 8, generator=generator)
    targets = inputs @ torch.randn(8, BLOCK, generator=generator)
    losses = {}
    for kind in ("float32", states):
        weight = torch.nn.Parameter(torch.zeros(8, BLOCK))
        optimizers = Optimizers([("w", weight)], OptimizerSettings(states=kind, weight_decay=0))
        for step in range(100):
            loss = (inputs @ weight - targets).square().mean()
            weight.grad = None
            loss.backward()
            optimizers.step(0.2 * (1 - step / 100))
        losses[kind] = loss.item()
    assert losses["float32"] < 1e-3
    assert losses[states] < 2 * losses["float32"] + 1e-5


@pytest.mark.parametrize(
    ("states", "per_number"), [("bfloat16", 4.0), ("int8", 2 * (1 + 4 / BLOCK))]
)
def test_the_states_take_exactly_the_stated_memory(states, per_number):
    named = parameters()
    optimizers = Optimizers(named, OptimizerSettings(states=states))
    optimizers.allocate()
    compact = [p for n, p in named if p.ndim == 2 and (states == "bfloat16" or n != "odd")]
    others = [p for _, p in named if not any(p is c for c in compact)]
    expected = per_number * sum(p.numel() for p in compact) + 8 * sum(p.numel() for p in others)
    assert sum(t.nbytes for t in optimizers.state().values()) == expected + 4 * len(named)


def test_stretches_of_rows_change_nothing(monkeypatch):
    results = []
    for stretch in (1 << 24, 2 * BLOCK):
        monkeypatch.setattr("longrun.optim.compact.STRETCH", stretch)
        named = parameters()
        optimizers = Optimizers(named, OptimizerSettings(states="int8"))
        for step in range(3):
            give_gradients(named, step)
            optimizers.step(0.1)
        results.append(named)
    for (_, one), (_, two) in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_muon_has_no_compact_states():
    with pytest.raises(ConfigError, match="states int8 needs name adamw"):
        OptimizerSettings.parse({"name": "muon", "states": "int8"}, "optimizer")
