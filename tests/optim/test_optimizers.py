import pytest
import torch

from longrun.config.training import OptimizerSettings
from longrun.optim.optimizers import Optimizers

KINDS = tuple({"name": name} for name in ("adamw", "muon")) + tuple(
    {"states": states} for states in ("bfloat16", "int8")
)


def parameters(seed: int = 0) -> list[tuple[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (7, 64),
        "model.layers.0.mlp.up_proj.weight": (6, 64),
        "model.norm.weight": (64,),
    }
    return [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator)))
        for name, shape in shapes.items()
    ]


def give_gradients(named, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in named:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(named, optimizers, steps) -> None:
    for step in steps:
        give_gradients(named, step)
        optimizers.step(0.01)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_restored_optimizer_continues_bitwise(kind):
    settings = OptimizerSettings(**kind, weight_decay=0.1)
    through, first, second = parameters(), parameters(), parameters()
    train(through, Optimizers(through, settings), range(1, 6))
    before = Optimizers(first, settings)
    train(first, before, range(1, 4))
    after = Optimizers(second, settings)
    after.allocate()
    with torch.no_grad():
        for (_, target), (_, source) in zip(second, first, strict=True):
            target.copy_(source)
        for key, value in after.state().items():
            value.copy_(before.state()[key])
    train(second, after, range(4, 6))
    for (_, one), (_, two) in zip(through, second, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_allocating_the_state_moves_no_parameter(kind):
    named, untouched = parameters(), parameters()
    optimizers = Optimizers(named, OptimizerSettings(**kind, weight_decay=0.5))
    optimizers.allocate()
    for (_, one), (_, two) in zip(named, untouched, strict=True):
        assert torch.equal(one, two)
        assert one.grad is None
    moments = {k: v for k, v in optimizers.state().items() if not k.endswith(".step")}
    assert moments
    assert not any(value.any() for value in moments.values())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_allocated_optimizer_steps_as_a_fresh_one(kind):
    results = []
    for allocated in (False, True):
        named = parameters()
        optimizers = Optimizers(named, OptimizerSettings(**kind))
        if allocated:
            optimizers.allocate()
        train(named, optimizers, range(1, 4))
        results.append([parameter.detach() for _, parameter in named])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest():
    named = parameters()
    optimizers = Optimizers(named, OptimizerSettings(name="muon"))
    optimizers.allocate()
    by_moment = {key.rpartition(".")[2]: [] for key in optimizers.state()}
    for key in optimizers.state():
        by_moment[key.rpartition(".")[2]].append(key.rpartition(".")[0])
    assert by_moment["momentum_buffer"] == ["model.layers.0.mlp.up_proj.weight"]
    assert by_moment["exp_avg"] == ["model.embed_tokens.weight", "model.norm.weight"]


def test_adamw_is_the_published_formula():
    settings = OptimizerSettings(lr=0.1, weight_decay=0.2, beta1=0.9, beta2=0.98, eps=1e-8)
    named = parameters()
    matrix = named[1][1].detach().clone()
    norm = named[2][1].detach().clone()
    give_gradients(named, 1)
    gradient, norm_gradient = named[1][1].grad.clone(), named[2][1].grad.clone()
    Optimizers(named, settings).step(0.05)
    torch.testing.assert_close(
        named[1][1].detach(),
        matrix * (1 - 0.05 * 0.2) - 0.05 * gradient.sign(),
        rtol=1e-5,
        atol=1e-6,
    )
    torch.testing.assert_close(
        named[2][1].detach(), norm - 0.05 * norm_gradient.sign(), rtol=1e-5, atol=1e-6
    )
