"""One process, called directly; more processes are in test_ranks and test_stage."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longrun.checkpoint.sharded import find_checkpoints
from longrun.errors import InputError, LongrunError
from longrun.train import loop
from longrun.train.metrics import TIMING_FIELDS, read_metrics
from longrun.train.worker import work


def never() -> bool:
    return False


def after(calls: int):
    """A stop request that comes when the loop has asked ``calls`` times."""
    count = iter(range(10**6))
    return lambda: next(count) >= calls


def run(world, folder, stop=never, **settings):
    folder.mkdir(exist_ok=True)
    return work(world.config(folder, **settings), stop)


def lines(folder):
    return [
        {key: value for key, value in line.items() if key not in TIMING_FIELDS}
        for line in read_metrics(folder)
    ]


def weights(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


LONG = {"max_steps": 9, "validation_interval": 3, "save_interval": 4}


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(world, folder, **LONG) == (9, True)
    return folder


def test_the_loss_falls_and_every_step_has_one_line(uninterrupted):
    trained = [line for line in lines(uninterrupted) if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, 10))
    assert trained[-1]["loss"] < trained[0]["loss"] - 0.1
    assert trained[1]["lr"] == 1e-2
    assert all(line["packs"] == 4 and line["grad_norm"] > 0 for line in trained)
    assert all(0 < line["supervised_tokens"] < line["tokens"] <= 256 for line in trained)


def test_validation_happens_at_its_interval_and_at_the_end(uninterrupted):
    found = [line for line in lines(uninterrupted) if "validation_loss" in line]
    assert [line["step"] for line in found] == [3, 6, 9]
    assert set(found[0]["validation_loss_by_mode"]) == {"cot", "tir"}
    low, high = sorted(found[-1]["validation_loss_by_mode"].values())
    assert low < found[-1]["validation_loss"] < high


def test_checkpoints_stand_at_their_interval_and_at_the_end(uninterrupted):
    assert list(find_checkpoints(uninterrupted)) == [4, 8, 9]
    state = json.loads((uninterrupted / "checkpoints/step-00000008/state.json").read_text())
    assert state["step"] == 8


@pytest.mark.parametrize("stops", [[0], [1], [4], [5, 1, 1], [8]])
def test_a_training_stopped_and_resumed_is_bitwise_the_uninterrupted_one(
    world, tmp_path, uninterrupted, stops
):
    finished = 0
    for calls in stops:
        finished += calls
        assert run(world, tmp_path, after(calls), **LONG) == (finished, False)
        assert list(find_checkpoints(tmp_path))[-1:] == ([finished] if finished else [])
    assert run(world, tmp_path, **LONG) == (9, True)
    assert lines(tmp_path) == lines(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


def test_muon_resumes_bitwise_too(world, tmp_path):
    settings = {"optimizer": {"name": "muon", "lr": 1e-2}, "max_steps": 5}
    run(world, tmp_path / "one", **settings)
    run(world, tmp_path / "two", after(3), **settings)
    run(world, tmp_path / "two", **settings)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_what_was_written_after_the_last_checkpoint_is_done_again(world, tmp_path, uninterrupted):
    run(world, tmp_path, after(7), **LONG)
    newest = find_checkpoints(tmp_path)[7]
    newest.rename(newest.with_name(".step-00000007.tmp"))
    assert run(world, tmp_path, **LONG) == (9, True)
    assert lines(tmp_path) == lines(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


def test_old_checkpoints_are_removed(world, tmp_path):
    run(world, tmp_path, max_steps=6, save_interval=1, keep_checkpoints=2)
    assert list(find_checkpoints(tmp_path)) == [5, 6]


def test_bfloat16_computes_with_float32_masters(world, tmp_path):
    run(world, tmp_path, dtype="bfloat16", max_steps=3, save_interval=1)
    run(world, tmp_path / "wide", max_steps=3)
    exported = load_file(tmp_path / "final" / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    narrow, wide = lines(tmp_path), lines(tmp_path / "wide")
    for one, two in zip(narrow, wide, strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(two["loss"], rel=2e-3)


def test_recomputation_and_chunks_change_nothing_but_rounding(world, tmp_path):
    run(world, tmp_path / "one")
    run(world, tmp_path / "two", recompute="full", loss_chunk_tokens=7)
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        key = "loss" if "loss" in one else "validation_loss"
        assert one[key] == pytest.approx(two[key], rel=1e-5)


def test_a_loss_that_is_no_number_names_the_step_and_its_records(world, tmp_path, monkeypatch):
    poisoned = {}

    def overflow(training, batch):
        dealt = real(training, batch)
        if training.batches[2] == batch:
            with torch.no_grad():
                training.model.model.model.norm.weight.fill_(torch.inf)
            poisoned["names"] = training.packs.origins(dealt.documents(0))
        return dealt

    real = loop.deal_of
    monkeypatch.setattr(loop, "deal_of", overflow)
    with pytest.raises(LongrunError, match=r"step 3: loss nan .* raw\.jsonl:\d+") as caught:
        run(world, tmp_path)
    first = poisoned["names"][0]
    assert f"{first.path}:{first.line}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(find_checkpoints(tmp_path)) == [2]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_batch_without_supervision_names_its_records(world, tmp_path, monkeypatch):
    table = np.zeros(7, np.float32)
    monkeypatch.setattr("longrun.train.supervision.weight_table", lambda weights: table)
    with pytest.raises(InputError, match=r"step 1: no token is supervised in raw\.jsonl:\d+"):
        run(world, tmp_path)


def test_a_checkpoint_of_other_packs_is_refused(world, tmp_path):
    run(world, tmp_path, after(2))
    with pytest.raises(InputError, match=r"step-00000002: stands at .* not where 2 steps lead"):
        run(world, tmp_path, global_batch_size=3)


def test_weights_that_are_no_numbers_are_refused_before_training(build_world, tmp_path):
    own = build_world(tmp_path)
    path = own.model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight has 1 weights that are NaN"):
        run(own, tmp_path / "out")
