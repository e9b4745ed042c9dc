import pytest
import torch

from longrun.formats.plans import PackSet
from longrun.nn.pack import build_pack
from longrun.parallel.mesh import Mesh
from longrun.training.build import build_training
from longrun.training.readers import weigh, weight_table
from longrun.training.validation import validate

ALONE = Mesh(0, 1, torch.device("cpu"), "none")


def by_hand(training, packs, mode: str | None) -> float:
    """The loss of the held-out documents of ``mode`` (None: all), one document at a time."""
    total, weight = 0.0, 0.0
    documents = packs.validation
    for index in range(len(documents)):
        if mode in (None, documents.modes[documents.mode_indices[index]]):
            table = weight_table(training.config.loss_weights)
            layout = build_pack([weigh(documents[index], table)])
            total += training.model.model.loss(layout, chunk_tokens=64).item()
            weight += layout.weight_sum()
    return total / weight


def test_the_loss_is_the_token_weighted_mean_as_a_whole_and_per_mode(world, tmp_path):
    weights = {"answer": 0.5, "code": 0.25}
    training = build_training(world.config(tmp_path, loss_weights=weights), ALONE)
    with torch.no_grad():
        for parameter in training.model.model.parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel())).view_as(parameter))
        result = validate(training.model, training.held_out, ALONE, chunk_tokens=64)
        packs = PackSet.open(world.packs)
        expected = {mode: by_hand(training, packs, mode) for mode in ("cot", "tir")}
        assert result["validation_loss_by_mode"] == pytest.approx(expected, rel=1e-6)
        assert result["validation_loss"] == pytest.approx(by_hand(training, packs, None), rel=1e-6)


def test_modes_without_supervision_have_no_loss(world, tmp_path, monkeypatch):
    table = weight_table(world.config(tmp_path).loss_weights) * 0
    monkeypatch.setattr("longrun.training.readers.weight_table", lambda weights: table)
    training = build_training(world.config(tmp_path), ALONE)
    result = validate(training.model, training.held_out, ALONE, chunk_tokens=64)
    assert result == {"validation_loss": None, "validation_loss_by_mode": {}}
