from dataclasses import replace

import numpy as np
import pytest
import torch

from longrun.errors import VerificationError
from longrun.nn.attention import Boundaries
from longrun.nn.decoder import Decoder
from longrun.nn.kernels import KERNELS
from longrun.nn.loss import linear_cross_entropy
from longrun.nn.rope import rotation
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.mesh import Mesh
from longrun.training.build import build_training
from longrun.training.laws import verify

ALONE = Mesh(0, 1, torch.device("cpu"), "none")


@pytest.fixture(scope="module")
def trainings(world, tmp_path_factory):
    """Models of both compute types on the same packs."""
    folder = tmp_path_factory.mktemp("verify")
    return {
        dtype: build_training(world.config(folder, dtype=dtype), ALONE)
        for dtype in ("float32", "bfloat16")
    }


def check(training) -> None:
    documents = [d for pack in training.batches[0] for d in training.packs.read(pack)]
    verify(training.model, ALONE, documents, {"steps": 1}, chunk_tokens=64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_model_passes_and_is_unchanged(trainings, dtype):
    training = trainings[dtype]
    before = {name: p.clone() for name, p in training.model.model.named_parameters()}
    check(training)
    assert all(torch.equal(before[name], p) for name, p in training.model.model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_across_documents_is_found(trainings, dtype, monkeypatch):
    def one_document(layout, backend):
        bounds = torch.tensor([0, layout.num_tokens], dtype=torch.int32)
        return Boundaries(bounds, bounds, layout.num_tokens, layout.num_tokens)

    monkeypatch.setattr(Boundaries, "of", one_document)
    with pytest.raises(
        VerificationError,
        match=r"isolation: logits that changed .* changing document 0 .* document 1",
    ):
        check(trainings[dtype])


def test_positions_that_run_on_are_found_by_regrouping(trainings, monkeypatch):
    # Rotations depend on differences of positions only, so the shift must differ within a document.
    def stretched(arch, positions, dtype):
        return rotation(arch, torch.arange(len(positions)) * (positions > 3), dtype)

    monkeypatch.setattr("longrun.nn.decoder.rotation", stretched)
    with pytest.raises(VerificationError, match=r"regrouping: (loss|gradient) of"):
        check(trainings["float32"])


def test_a_loss_divided_per_pack_is_found(trainings, monkeypatch):
    def mean(self, layout, *, chunk_tokens):
        total = linear_cross_entropy(
            self.forward(layout),
            self.lm_head.weight,
            layout.targets,
            layout.weights,
            chunk_tokens=chunk_tokens,
        )
        return total / max(layout.weight_sum(), 1.0)

    monkeypatch.setattr(Decoder, "loss", mean)
    with pytest.raises(
        VerificationError, match=r"regrouping: loss of packed documents .* \(bound 0.0001\)"
    ):
        check(trainings["float32"])


def test_a_wrong_backward_kernel_is_found(trainings, monkeypatch):
    real = KERNELS["sdpa"].backward

    def wrong(do, saved, segments, scale):
        dq, dk, dv = real(do, saved, segments, scale)
        dq[0] += 1e-2 * (len(segments[0]) > 2)
        return dq, dk, dv

    monkeypatch.setitem(KERNELS, "sdpa", replace(KERNELS["sdpa"], backward=wrong))
    with pytest.raises(
        VerificationError, match=r"regrouping: gradient of model\..*packed against alone.*bound"
    ):
        check(trainings["float32"])


def test_a_pack_of_one_document_can_be_verified(trainings):
    training = trainings["float32"]
    tokens, weights = training.packs.read(training.batches[0][0])[0]
    verify(
        training.model,
        ALONE,
        [WeightedDocument(tokens, np.zeros_like(weights))],
        {},
        chunk_tokens=64,
    )
