import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrun.checkpoint import average
from longrun.checkpoint.average import choose_steps
from longrun.checkpoint.sharded import LoopState
from longrun.config.training import AverageConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.stages.manifest import Manifest

STEPS = (10, 20, 30)


def member(folder, seed: int) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint with ``seed``: those of the model plus noise."""
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(folder / "final" / "model.safetensors")
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


@pytest.fixture
def training(make_model, save_checkpoint, tmp_path):
    """A finished training of three checkpoints, as files."""
    folder = tmp_path / "training"
    folder.mkdir()
    shutil.copytree(make_model(), folder / "final")
    (folder / "final" / "conversation.json").write_text('{"prompts": {}}')
    manifest = replace(Manifest.read(folder / "final"), verb="train")
    (folder / "final" / "manifest.json").unlink()
    manifest.write(folder)
    for step in STEPS:
        tensors = {f"model.{name}": tensor for name, tensor in member(folder, step).items()}
        save_checkpoint(folder, LoopState(step, 0, 0), tensors)
    return folder


def run(training, name: str = "average", **settings):
    values = {"checkpoints": training, "output_dir": training.parent / name, **settings}
    average.run(AverageConfig.parse(values, "average"))
    return training.parent / name


def test_the_mean_is_taken_in_float32_and_rounded_once(training):
    result = load_file(run(training, steps=[10, 30]) / "model" / "model.safetensors")
    one, two = member(training, 10), member(training, 30)
    for name, tensor in result.items():
        assert torch.equal(tensor, ((one[name] + two[name]) / 2).bfloat16())


def test_the_average_of_one_is_that_checkpoint(training):
    folder = run(training, steps=[20], dtype="float32")
    result = load_file(folder / "model" / "model.safetensors")
    assert {k: v.numpy().tobytes() for k, v in result.items()} == {
        k: v.numpy().tobytes() for k, v in member(training, 20).items()
    }


def test_the_order_of_the_steps_does_not_matter(training):
    folders = [
        run(training, f"average-{order[0]}", steps=order) for order in ([10, 20, 30], [30, 10, 20])
    ]
    one, two = ((folder / "model" / "model.safetensors").read_bytes() for folder in folders)
    assert one == two


def test_the_result_is_a_model_with_tokenizer_and_conversation(training):
    folder = run(training) / "model"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == [258]
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    assert json.loads((folder / "conversation.json").read_text()) == {"prompts": {}}


def test_members_are_exported_when_asked_for(training):
    folder = run(training, steps="last:2", export_members=True, dtype="float32")
    names = sorted(path.name for path in (folder / "members").iterdir())
    assert names == ["step-00000020", "step-00000030"]
    exported = load_file(folder / "members" / "step-00000030" / "model.safetensors")
    expected = member(training, 30)
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    assert not (run(training, "other") / "members").exists()


def test_a_missing_step_is_named_with_those_that_are_there(training):
    with pytest.raises(ConfigError, match=r"no checkpoint of step 15, 40; available: 10, 20, 30"):
        run(training, steps=[40, 10, 15])


def test_steps_are_matched_whole_and_not_by_how_they_begin(training, save_checkpoint):
    """Round 1 of a long training saves steps whose numbers begin like those of round 2."""
    wanted, alike = [500, 1000, 1500, 2000], [5000, 10_000, 15_000, 20_000]
    for step in alike:
        tensors = {f"model.{name}": tensor for name, tensor in member(training, step).items()}
        save_checkpoint(training, LoopState(step, 0, 0), tensors)
    with pytest.raises(ConfigError, match=r"no checkpoint of step 500, 1000, 1500, 2000; avail"):
        run(training, steps=wanted)
    assert not (training.parent / "average/model").exists()
    for step in wanted:
        tensors = {f"model.{name}": tensor for name, tensor in member(training, step).items()}
        save_checkpoint(training, LoopState(step, 0, 0), tensors)
    result = load_file(run(training, steps=wanted, dtype="float32") / "model/model.safetensors")
    members = [member(training, step) for step in wanted]
    for name, tensor in result.items():
        total = members[0][name] + members[1][name] + members[2][name] + members[3][name]
        assert torch.equal(tensor, total / 4)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("last:4", r"'last:4' asks for 4; available: 10, 20, 30"),
        ("last:0", r"is not a list, 'all' or 'last:N'"),
        ("newest", r"is not a list, 'all' or 'last:N'"),
        ([10, 10], r"one of them twice"),
        ([], r"names no step"),
    ],
)
def test_steps_that_cannot_be_understood_are_refused(steps, message):
    with pytest.raises(ConfigError, match=message):
        choose_steps(steps, STEPS)


@given(st.lists(st.integers(1, 99), min_size=1, unique=True).map(sorted), st.data())
def test_the_last_steps_are_the_newest(available, data):
    count = data.draw(st.integers(1, len(available)))
    assert choose_steps(f"last:{count}", available) == available[-count:]
    assert choose_steps("all", available) == available


def test_an_unfinished_training_is_refused(training):
    (training / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"has no manifest.json"):
        run(training)


def test_checkpoints_of_different_models_are_not_averaged(training, save_checkpoint):
    save_checkpoint(training, LoopState(40, 0, 0), {"model.other": torch.zeros(1)})
    with pytest.raises(InputError, match=r"step-00000040: holds another model"):
        run(training)
