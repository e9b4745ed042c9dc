"""One process, called directly; more processes are in test_ranks and test_stage."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from longrun.checkpoint.metadata import read_metadata
from longrun.checkpoint.sharded import find_checkpoints, load_checkpoint, read_state
from longrun.errors import InputError, LongrunError, ResourceError, StaleError
from longrun.parallel.mesh import Mesh
from longrun.training import loop
from longrun.training.build import build_training
from longrun.training.metrics import TIMING_FIELDS, read_metrics
from longrun.training.step import Gradients
from longrun.training.worker import work

ALONE = Mesh(0, 1, torch.device("cpu"), "none")


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


def contents(path):
    """Every tensor of a checkpoint."""
    sizes = read_metadata(path).state_dict_metadata
    tensors = {name: torch.zeros(tuple(entry.size)) for name, entry in sizes.items()}
    load_checkpoint(path, tensors, ALONE)
    return tensors


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


@pytest.fixture
def poison(monkeypatch):
    """Return ``poison(*steps)``: the loss of these steps (from 0) is not a number."""
    real = loop.compute_gradients

    def spoil(*steps):
        calls = {}

        def spoiled(model, mesh, micro_steps, **arguments):
            gradients = real(model, mesh, micro_steps, **arguments)
            step = calls.setdefault("next", spoil.first)
            calls["next"] += 1
            if step not in steps:
                return gradients
            for parameter in model.model.parameters():
                parameter.grad.fill_(torch.nan)
            return Gradients(torch.nan, torch.nan, [torch.nan, *gradients.pack_losses[1:]])

        monkeypatch.setattr(loop, "compute_gradients", spoiled)

    spoil.first = 0
    return spoil


def test_a_loss_that_is_no_number_names_the_step_and_its_records(world, tmp_path, poison):
    poison(2)
    with pytest.raises(LongrunError, match=r"step 3: loss nan .* raw\.jsonl:\d+") as caught:
        run(world, tmp_path)
    training = build_training(world.config(tmp_path), ALONE)
    first = training.packs.origins(
        loop.rank_batch(training, training.batches[2]).dealt.documents([0])
    )[0]
    assert f"in {first.path}:{first.line}," in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(find_checkpoints(tmp_path)) == [2]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


SKIP = {"max_steps": 6, "guard": {"non_finite": "skip"}, "optimizer": {"average_decay": 0.9}}


def test_a_skipped_step_changes_nothing_and_resumes_bitwise(world, tmp_path, poison):
    poison(2, 3)
    assert run(world, tmp_path / "one", **SKIP, save_interval=1) == (6, True)
    skipped = [line for line in lines(tmp_path / "one") if "skipped" in line]
    assert [line["step"] for line in skipped] == [3, 4]
    assert all(line["loss"] is None and "raw.jsonl:" in line["skipped"] for line in skipped)
    found = find_checkpoints(tmp_path / "one")
    before, after_skips = (contents(found[step]) for step in (2, 4))
    assert all(torch.equal(after_skips[name], value) for name, value in before.items())
    assert read_state(found[4]).updates == read_state(found[2]).updates == 2
    schedule = build_training(world.config(tmp_path, **SKIP), ALONE).schedule
    trained = [line for line in lines(tmp_path / "one") if "loss" in line]
    assert [line["lr"] for line in trained] == [schedule(step) for step in range(6)]
    for calls in (3, 9):
        poison(2, 3)
        run(world, tmp_path / "two", after(calls), **SKIP)
        poison.first = 3
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert weights(tmp_path / "two") == weights(tmp_path / "one")


def test_skips_in_a_row_are_bounded_also_across_a_resume(world, tmp_path, poison):
    settings = SKIP | {"guard": {"non_finite": "skip", "max_skips": 2}}
    poison(1, 2, 3)
    run(world, tmp_path, after(3), **settings)
    poison.first = 3
    poison(1, 2, 3)
    with pytest.raises(LongrunError, match=r"step 4: .* after 2 skipped steps in a row"):
        run(world, tmp_path, **settings)


def test_a_spike_of_the_loss_is_named_and_skipped(world, tmp_path, caplog):
    rule = {"spike_factor": 1.0001, "spike_window": 2, "on_spike": "skip", "max_skips": 99}
    settings = {"guard": rule, "optimizer": {"lr": 0.5, "clip_norm": None}, "max_steps": 8}
    run(world, tmp_path, **settings)
    found = [line for line in lines(tmp_path) if "skipped" in line]
    assert found
    assert "is above 1.0001 times" in found[0]["skipped"]
    assert "raw.jsonl:" in caplog.text


def test_a_batch_without_supervision_names_its_records(world, tmp_path, monkeypatch):
    table = np.zeros(7, np.float32)
    monkeypatch.setattr("longrun.training.readers.weight_table", lambda weights: table)
    with pytest.raises(InputError, match=r"step 1: no token is supervised in raw\.jsonl:\d+"):
        run(world, tmp_path)


def test_a_checkpoint_of_other_packs_is_refused(world, tmp_path):
    run(world, tmp_path, after(2))
    with pytest.raises(StaleError, match=r"step-00000002: .*train\.global_batch_size 4 -> 3"):
        run(world, tmp_path, global_batch_size=3)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"optimizer": {"lr": 2e-2, "warmup_steps": 1}}, r"train\.optimizer\.lr 0\.01 -> 0\.02"),
        ({"max_steps": 5}, r"train\.max_steps 4 -> 5; train\.steps 4 -> 5"),
        ({"loss_weights": {"code": 0.5}}, r"train\.loss_weights\.code 1\.0 -> 0\.5"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    world, stopped, tmp_path, settings, difference
):
    shutil.copytree(stopped, tmp_path / "copy")
    with pytest.raises(StaleError, match=difference):
        run(world, tmp_path / "copy", **settings)


@pytest.mark.parametrize("part", ["model", "packs", "documents"])
def test_a_checkpoint_of_other_weights_or_data_is_refused(build_world, stopped, tmp_path, part):
    own = build_world(tmp_path, seed=int(part == "model"))
    changed = {"packs": own.packs / "epoch-000.documents.npy"}
    changed["documents"] = own.documents / "train/00000.bin"
    if part != "model":
        content = bytearray(changed[part].read_bytes())
        content[-8] ^= 1
        changed[part].write_bytes(content)
    shutil.copytree(stopped, tmp_path / "copy")
    with pytest.raises(StaleError, match=rf"another training: train\.{part} \S+ -> \S+\. Name"):
        run(own, tmp_path / "copy")


@pytest.fixture(scope="module")
def stopped(world, tmp_path_factory):
    """A training that was stopped after two steps."""
    folder = tmp_path_factory.mktemp("stopped")
    run(world, folder, after(2))
    return folder


@pytest.mark.parametrize(
    "settings", [{"prefetch_batches": 0}, {"prefetch_batches": 5, "save_in_background": False}]
)
def test_what_runs_beside_the_steps_changes_no_bit(world, tmp_path, uninterrupted, settings):
    run(world, tmp_path, **LONG, **settings)
    assert lines(tmp_path) == lines(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


@pytest.mark.parametrize("states", ["bfloat16", "int8"])
def test_compact_states_resume_bitwise_and_learn_as_float32(
    build_world, tmp_path, uninterrupted, states
):
    own = build_world(tmp_path, hidden_size=64, intermediate_size=64)
    settings = LONG | {"optimizer": {"lr": 1e-2, "warmup_steps": 1, "states": states}}
    run(own, tmp_path / "one", **settings)
    run(own, tmp_path / "two", after(5), **settings)
    run(own, tmp_path / "two", **settings)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    run(own, tmp_path / "wide", **LONG)
    last, wide = lines(tmp_path / "one")[-2], lines(tmp_path / "wide")[-2]
    assert last["loss"] == pytest.approx(wide["loss"], rel=0.02)
    assert last["loss"] != wide["loss"]


def test_batches_in_tokens_resume_bitwise(world, tmp_path):
    settings = LONG | {"global_batch_size": None, "global_batch_tokens": 60}
    run(world, tmp_path / "one", **settings)
    run(world, tmp_path / "two", after(5), **settings)
    run(world, tmp_path / "two", **settings)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    trained = [line for line in lines(tmp_path / "one") if "loss" in line]
    assert min(line["supervised_tokens"] for line in trained) >= 60
    assert len({line["packs"] for line in trained}) > 1


def test_the_running_average_is_exported_and_resumes_bitwise(world, tmp_path):
    settings = {"max_steps": 5, "optimizer": {"lr": 1e-2, "average_decay": 0.9}}
    run(world, tmp_path / "one", **settings, save_interval=1)
    run(world, tmp_path / "two", after(3), **settings, save_interval=1)
    run(world, tmp_path / "two", **settings, save_interval=1)
    exported = tmp_path / "one" / "final-average" / "model.safetensors"
    assert (
        exported.read_bytes()
        == (tmp_path / "two" / "final-average" / "model.safetensors").read_bytes()
    )
    members = [contents(path) for path in find_checkpoints(tmp_path / "one").values()]
    for name, tensor in load_file(exported).items():  # 5 updates are below 1 / (1 - 0.9)
        mean = torch.stack([member[f"model.{name}"] for member in members]).mean(0)
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-7)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "one" / "final-average")
    assert weights(tmp_path / "one") != exported.read_bytes()


def test_steps_to_average_are_saved_and_kept(world, tmp_path):
    run(world, tmp_path, max_steps=6, save_interval=2, keep_checkpoints=1, keep_steps=[1, 2])
    assert list(find_checkpoints(tmp_path)) == [1, 2, 6]


def test_without_held_out_documents_validation_is_left_out_with_a_line(
    build_world, tmp_path, caplog
):
    own = build_world(tmp_path, num_held_out=0)
    caplog.set_level("INFO")
    assert run(own, tmp_path / "out", validation_interval=2) == (4, True)
    assert caplog.text.count("no documents are held out (prepare.validation_share)") == 1
    assert not any("validation_loss" in line for line in lines(tmp_path / "out"))


def test_a_save_that_fails_ends_the_training_at_the_next_step(world, tmp_path):
    """The name that the checkpoint of step 4 is to get is taken by a folder that is not empty."""
    taken = tmp_path / "checkpoints" / "step-00000004"

    def take_the_name() -> bool:
        if len(lines(tmp_path)) == 3:
            (taken / "inside").mkdir(parents=True)
        return False

    with pytest.raises(ResourceError, match=r"step-00000004: could not be saved .*untouched"):
        run(world, tmp_path, take_the_name, max_steps=200)
    assert 4 <= lines(tmp_path)[-1]["step"] < 200
    taken.rename(tmp_path / "elsewhere")
    assert list(find_checkpoints(tmp_path)) == [2]


def test_weights_that_are_no_numbers_are_refused_before_training(build_world, tmp_path):
    own = build_world(tmp_path)
    path = own.model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight has 1 weights that are NaN"):
        run(own, tmp_path / "out")
