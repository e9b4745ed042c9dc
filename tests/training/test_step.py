import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.nn.pack import build_pack
from longrun.parallel.data import Replicated
from longrun.parallel.mesh import Mesh
from longrun.training.step import Gradients, MicroStep, compute_gradients, count, filler

VOCABULARY = 30
ALONE = Mesh(0, 1, torch.device("cpu"), "none")


@pytest.fixture(scope="module")
def model() -> Replicated:
    config = {
        "model_type": "qwen2",
        "vocab_size": VOCABULARY,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    decoder = Decoder(
        Arch.from_hf(config, "config.json"), backend="reference", compute_dtype=torch.float64
    ).double()
    decoder.initialise(0, std=0.3)
    return Replicated(decoder, ALONE)


def documents(seed: int, count: int):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, count)
    return [
        (rng.integers(0, VOCABULARY, n).astype(np.int32), rng.choice([0, 0.5, 1], n).astype("f4"))
        for n in lengths
    ]


def run(model, packs) -> tuple[float, dict[str, torch.Tensor]]:
    micro_steps = [MicroStep(slot, build_pack(pack)) for slot, pack in enumerate(packs)]
    result = compute_gradients(
        model,
        ALONE,
        micro_steps,
        num_packs=len(packs),
        weight=count(micro_steps, ALONE).weight,
        chunk_tokens=3,
    )
    return result.loss, {name: p.grad.clone() for name, p in model.model.named_parameters()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(2, 6), st.data())
def test_loss_and_gradient_do_not_depend_on_the_grouping(model, seed, num_documents, data):
    whole = documents(seed, num_documents)
    whole[0][1][-1] = 1.0
    whole.append((np.arange(4, dtype=np.int32), np.ones(4, np.float32)))
    order = data.draw(st.permutations(range(len(whole))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    bounds = [0, *cuts, len(whole)]
    packs = [[whole[i] for i in order[a:b]] for a, b in pairwise(bounds)]
    loss, gradients = run(model, [whole])
    other_loss, other_gradients = run(model, packs)
    assert other_loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-9, atol=1e-12)


def test_the_loss_is_the_weighted_mean_over_the_whole_batch(model):
    packs = [documents(1, 2), documents(2, 3)]
    nll, weight = 0.0, 0.0
    for tokens, weights in (document for pack in packs for document in pack):
        logits = model.model.logits(build_pack([(tokens, weights)]))[:-1]
        targets = torch.from_numpy(tokens[1:].astype(np.int64))
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        nll += (each.detach() * torch.from_numpy(weights[1:])).sum().item()
        weight += float(weights[1:].sum())
    assert run(model, packs)[0] == pytest.approx(nll / weight, rel=1e-12)


def test_a_filler_changes_no_bit(model):
    micro_steps = [MicroStep(0, build_pack(documents(3, 3)))]
    results = []
    for steps in (micro_steps, [*micro_steps, filler(ALONE)], [filler(ALONE), *micro_steps]):
        results.append(
            compute_gradients(model, ALONE, steps, num_packs=1, weight=2.0, chunk_tokens=9)
        )
        results.append([p.grad.clone() for p in model.model.parameters()])
    assert results[0] == results[2] == results[4]
    for other in (results[3], results[5]):
        assert all(torch.equal(a, b) for a, b in zip(results[1], other, strict=True))


def test_a_batch_is_counted_without_fillers():
    layout = build_pack([(np.arange(5, dtype=np.int32), np.float32([0, 0, 0.5, 1, 1]))])
    counts = count([MicroStep(0, layout), filler(ALONE)], ALONE)
    assert (counts.weight, counts.tokens, counts.supervised_tokens) == (2.5, 5, 3)


def test_gradients_are_clipped_to_the_bound(model):
    micro_steps = [MicroStep(0, build_pack(documents(4, 3)))]
    arguments = {"num_packs": 1, "weight": 1.0, "chunk_tokens": 9}
    free = compute_gradients(model, ALONE, micro_steps, **arguments)
    bound = free.grad_norm / 2
    clipped = compute_gradients(model, ALONE, micro_steps, clip_norm=bound, **arguments)
    assert clipped.grad_norm == pytest.approx(free.grad_norm)
    squares = sum(float(p.grad.square().sum()) for p in model.model.parameters())
    assert math.sqrt(squares) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("losses", "norm", "bad"),
    [([1.0, math.nan, math.inf], 1.0, [1, 2]), ([1.0, 2.0], math.inf, [0, 1])],
)
def test_packs_with_a_loss_that_is_no_number_are_singled_out(losses, norm, bad):
    gradients = Gradients(math.fsum(losses) if norm == math.inf else math.nan, norm, losses)
    assert not gradients.finite
    assert gradients.bad_slots() == bad
