import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from longrun.checkpoint import convert_model
from longrun.config.convert import ConvertConfig
from longrun.errors import InputError

NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture
def make_model(make_model):
    """Make models that are nobody's output: a test may change them."""

    def make(*name, **settings):
        folder = make_model(*name, **settings)
        (folder / "manifest.json").unlink()
        return folder

    return make


@pytest.fixture
def convert(tmp_path):
    def run(model, **settings):
        values = {"model": model, "output_dir": tmp_path / "out", **settings}
        convert_model.run(ConvertConfig.parse(values, "convert"))
        return tmp_path / "out" / "model"

    return run


def weights(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        return model(torch.arange(12)[None]).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_smaller_files_is_the_same_model(tied, make_model, convert):
    model = make_model(tied=tied, hidden_size=256, intermediate_size=512, num_layers=3)
    made = convert(model, max_shard_mb=1)
    assert len(list(made.glob("*.safetensors"))) > 2
    assert weights(made).keys() == weights(model).keys()
    assert all(torch.equal(tensor, weights(model)[name]) for name, tensor in weights(made).items())
    assert torch.equal(logits(made), logits(model))
    for name in NAMES:
        assert (made / name).read_bytes() == (model / name).read_bytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_rounded_once_to_the_type_that_is_named(dtype, make_model, convert):
    model = make_model()
    made = convert(model, dtype=dtype)
    wanted = getattr(torch, dtype)
    for name, tensor in weights(made).items():
        assert torch.equal(tensor, weights(model)[name].to(wanted))
    assert AutoModelForCausalLM.from_pretrained(made, dtype="auto").dtype == wanted


def test_positions_change_in_the_config_alone(make_model, convert):
    model = make_model()
    made = convert(model, context={"rope_theta": 500_000.0, "max_positions": 131072})
    before = json.loads((model / "config.json").read_text())
    after = json.loads((made / "config.json").read_text())
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"rope_theta", "rope_parameters", "max_position_embeddings"}
    assert after["max_position_embeddings"] == 131072
    assert 500_000.0 in (after.get("rope_theta"), *after.get("rope_parameters", {}).values())
    assert not torch.equal(logits(made), logits(model))


def test_a_copy_of_the_embedding_in_a_tied_model_is_left_out_if_it_is_one(make_model, convert):
    model = make_model(tied=True)
    tensors = load_file(model / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": embedding.clone()}, model / "model.safetensors")
    made = convert(model)
    assert weights(made).keys() == tensors.keys()
    save_file({**tensors, "lm_head.weight": embedding + 1}, model / "model.safetensors")
    with pytest.raises(InputError, match=r"differs from model\.embed_tokens\.weight"):
        convert(model, output_dir=made.parent.with_name("other"))


def test_what_a_type_cannot_hold_is_named(make_model, convert):
    model = make_model()
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.norm\.weight has 1 weights that are NaN or inf"):
        convert(model, dtype="float16")
    assert not list(model.parent.glob("out/model*"))


def test_several_types_need_one_to_be_named(make_model, convert):
    model = make_model()
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(InputError, match="type bfloat16, float32; name one with dtype="):
        convert(model)
    assert weights(convert(model, dtype="float32"))


def test_a_folder_without_weights_is_refused(make_model, convert):
    model = make_model()
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match="save it as safetensors"):
        convert(model)


def test_a_model_without_its_output_matrix_is_not_copied(make_model, convert):
    model = make_model(tied=False)
    tensors = load_file(model / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"missing lm_head\.weight; unknown none"):
        convert(model)
    assert not (model.parent / "out" / "model").exists()


def test_a_model_in_another_type_has_one_type_in_its_config(make_model, convert):
    model = make_model()
    config = json.loads((model / "config.json").read_text())
    config |= {"dtype": "float32", "torch_dtype": None}
    (model / "config.json").write_text(json.dumps(config))
    made = json.loads((convert(model, dtype="bfloat16") / "config.json").read_text())
    assert made["dtype"] == made["torch_dtype"] == "bfloat16"
