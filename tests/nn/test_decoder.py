"""Laws of the decoder over packs: isolation, regrouping invariance, equal ways to compute."""

import numpy as np
import pytest
import torch
from torch import Tensor

from longrun.nn.decoder import Decoder
from longrun.nn.pack import PackTensors, build_pack

LENGTHS = (5, 1, 17, 9)


def gradients(model: Decoder, *layouts: PackTensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the summed loss of the packs and the gradient of every parameter."""
    model.zero_grad(set_to_none=True)
    losses = []
    for layout in layouts:
        loss = model.loss(layout, chunk_tokens=7)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum(), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters()
    }


def assert_equal_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        assert gradient.any(), name
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_pack_equals_its_documents_alone(build_decoder, draw_documents, backend, tied, qk_norm):
    model = build_decoder(backend=backend, tied=tied, qk_norm=qk_norm)
    documents = draw_documents(LENGTHS)
    packed_loss, packed = gradients(model, build_pack(documents, multiple_of=16))
    alone_loss, alone = gradients(model, *(build_pack([document]) for document in documents))
    torch.testing.assert_close(packed_loss, alone_loss, rtol=1e-11, atol=0)
    assert_equal_gradients(packed, alone)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_order_of_the_documents_does_not_matter(build_decoder, draw_documents, order):
    model, documents = build_decoder(), draw_documents(LENGTHS)
    loss, grads = gradients(model, build_pack(documents))
    other_loss, others = gradients(model, build_pack([documents[index] for index in order]))
    torch.testing.assert_close(loss, other_loss, rtol=1e-11, atol=0)
    assert_equal_gradients(grads, others)


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changing_one_document_changes_no_bit_of_another(
    build_decoder, draw_documents, changed, dtype
):
    model = build_decoder(compute_dtype=dtype).float()
    documents = draw_documents(LENGTHS)
    with torch.no_grad():
        before = model.logits(build_pack(documents, multiple_of=16))
        tokens, weights = documents[changed]
        documents[changed] = (tokens + 1) % 61, weights
        after = model.logits(build_pack(documents, multiple_of=16))
    ends = np.cumsum(LENGTHS)
    inside = torch.zeros(len(before), dtype=torch.bool)
    inside[ends[changed] - LENGTHS[changed] : ends[changed]] = True
    assert torch.equal(before[~inside], after[~inside])
    assert not torch.equal(before[inside], after[inside])


def test_the_future_changes_no_bit_of_the_past(build_decoder, draw_documents):
    model, [(tokens, weights)] = build_decoder(), draw_documents([20])
    other = tokens.copy()
    other[13] = (other[13] + 1) % 61
    with torch.no_grad():
        before, after = (model.logits(build_pack([(ids, weights)])) for ids in (tokens, other))
    assert torch.equal(before[:13], after[:13])
    assert not torch.equal(before[13:], after[13:])


@pytest.mark.parametrize("chunk_tokens", [1, 3, 1000])
def test_the_chunks_of_the_loss_do_not_matter(build_decoder, draw_documents, chunk_tokens):
    model, layout = build_decoder(), build_pack(draw_documents(LENGTHS))
    loss, grads = gradients(model, layout)
    model.zero_grad()
    other = model.loss(layout, chunk_tokens=chunk_tokens)
    other.backward()
    torch.testing.assert_close(loss, other.detach(), rtol=1e-12, atol=0)
    others = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_equal_gradients(others, grads)


def test_recomputing_changes_no_bit(build_decoder, draw_documents):
    layout = build_pack(draw_documents(LENGTHS))
    loss, grads = gradients(build_decoder(), layout)
    other_loss, others = gradients(build_decoder(recompute="full"), layout)
    assert torch.equal(loss, other_loss)
    assert all(torch.equal(grads[name], others[name]) for name in grads)


def test_recomputing_keeps_only_the_input_of_each_layer(build_decoder, draw_documents):
    layout = build_pack(draw_documents(LENGTHS))
    kept = {}
    for recompute in ("none", "full"):
        model, sizes = build_decoder(recompute=recompute), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            model.loss(layout)
        kept[recompute] = sum(sizes)
    assert kept["full"] < kept["none"] / 3


def test_a_pack_without_supervision_gives_zero_loss_and_zero_gradients(
    build_decoder, draw_documents
):
    documents = [(tokens, weights * 0) for tokens, weights in draw_documents(LENGTHS)]
    model = build_decoder()
    loss = model.loss(build_pack(documents))
    loss.backward()
    assert loss.item() == 0
    for parameter in model.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_computes_in_bfloat16_over_float32_parameters(build_decoder, draw_documents):
    layout = build_pack(draw_documents(LENGTHS))
    _, exact = gradients(build_decoder(), layout)
    model = build_decoder(compute_dtype=torch.bfloat16).float()
    assert model(layout).dtype == torch.bfloat16
    loss, grads = gradients(model, layout)
    assert loss.dtype == torch.float32
    for name, gradient in grads.items():
        assert gradient.dtype == torch.float32
        # the gradient of a key bias is all but zero, so rounding is a large part of it
        bound = 0.2 if name.endswith("k_proj.bias") else 0.1
        assert (gradient - exact[name]).norm() < bound * exact[name].norm(), name


def test_initialises_alike_from_one_seed_and_apart_from_another(tiny_arch):
    models = [Decoder(tiny_arch, backend="sdpa") for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        model.initialise(seed)
    same, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(same[name], again[name]) for name in same)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(same[name], other[name])
    assert same[name].std() == pytest.approx(0.02, rel=0.1)
    assert (same["model.norm.weight"] == 1).all()
    assert (same["model.layers.1.self_attn.q_proj.bias"] == 0).all()


def test_shares_the_output_matrix_when_tied(build_decoder):
    tied, untied = build_decoder(tied=True), build_decoder(tied=False)
    assert "lm_head.weight" not in dict(tied.named_parameters())
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert "lm_head.weight" in dict(untied.named_parameters())
