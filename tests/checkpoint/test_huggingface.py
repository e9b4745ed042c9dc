import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrun.checkpoint.huggingface import load_weights, plan_files, write_weights
from longrun.checkpoint.model_folder import read_arch
from longrun.errors import InputError
from longrun.nn.decoder import Decoder
from longrun.nn.pack import build_pack


def load(folder) -> Decoder:
    model = Decoder(read_arch(folder), backend="reference")
    load_weights(folder, model)
    return model


def change(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same_logits(make_model, tied):
    folder = make_model(tied=tied)
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) == tied
    tokens = np.arange(40, dtype=np.int32)
    ours = load(folder).logits(build_pack([(tokens, np.ones(40, np.float32))]))
    expected = theirs(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_transformers_finds_the_stop_token(make_model):
    folder = make_model()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == [258]
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"


@pytest.mark.parametrize("max_file_bytes", [1 << 30, 4000])
def test_saving_loading_and_saving_again_gives_equal_bytes(make_model, tmp_path, max_file_bytes):
    source = make_model(tied=False)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        model = load(source)
        weights = {name: p.detach() for name, p in model.named_parameters()}
        folder.mkdir()
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        write_weights(
            folder, shapes, weights.__getitem__, torch.float32, max_file_bytes=max_file_bytes
        )
        (folder / "config.json").write_bytes((source / "config.json").read_bytes())
        source = folder
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert ("model.safetensors" in files[0]) == (max_file_bytes > 4000)
    assert AutoModelForCausalLM.from_pretrained(folders[1]) is not None


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=12), st.integers(1, 12))
def test_files_hold_every_tensor_once_in_order_within_the_bound(sizes, bound):
    files = plan_files(sizes, bound)
    assert [name for file in files for name in file] == list(sizes)
    assert all(sum(sizes[name] for name in file) <= bound or len(file) == 1 for file in files)


def test_a_lower_type_is_widened_without_change(make_model):
    folder = make_model()
    change(folder, lambda tensors: tensors.update({k: v.bfloat16() for k, v in tensors.items()}))
    stored = load_file(folder / "model.safetensors")
    for name, parameter in load(folder).named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, stored[name].float())


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(NORM), r"missing model\.norm\.weight; unknown none"),
        (lambda t: t.update(other=torch.zeros(1)), r"missing none; unknown other"),
        (lambda t: t.update({NORM: torch.ones(3)}), r"norm\.weight has shape \[3\] .*\[16\]"),
        (lambda t: t[NORM].fill_(torch.nan), r"norm\.weight has 16 weights that are NaN or inf"),
        (
            lambda t: t.update({NORM: torch.ones(16, dtype=torch.int8)}),
            r"norm\.weight has type I8, which is no type of weights",
        ),
        (
            lambda t: t.update({NORM: torch.ones(16).to(torch.float8_e4m3fn)}),
            r"norm\.weight has type F8_E4M3, .*dequantise",
        ),
        (lambda t: t.update({"lm_head.weight": torch.zeros(3, 16)}), r"lm_head.* \[259, 16\]"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(259, 16)}), r"lm_head\.weight differs"),
    ],
)
def test_weights_that_do_not_belong_to_the_config_are_refused(make_model, edit, message):
    folder = make_model()
    change(folder, edit)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_stored_copy_of_a_tied_matrix_is_accepted(make_model):
    folder = make_model()
    change(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    load(folder)


def test_a_refused_file_changes_no_parameter(make_model):
    folder = make_model()
    model = load(folder)
    before = model.model.embed_tokens.weight.detach().clone()
    change(
        folder, lambda t: t.update({NORM: torch.ones(3), "model.embed_tokens.weight": before + 1})
    )
    with pytest.raises(InputError):
        load_weights(folder, model)
    assert torch.equal(model.model.embed_tokens.weight, before)


def test_a_file_that_lacks_what_the_index_says_is_named_and_nothing_is_loaded(make_model):
    folder = make_model()
    tensors = load_file(folder / "model.safetensors")
    mapping = dict.fromkeys(tensors, "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    del tensors[NORM]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=rf"lacks what .*index\.json says it holds: {NORM}"):
        load(folder)


def test_missing_and_damaged_files_are_named(make_model):
    folder = make_model()
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"model\.safetensors: is damaged"):
        load(folder)
    index = {"weight_map": {NORM: "model-00001-of-00002.safetensors"}}
    names = [n for n, _ in Decoder(read_arch(folder), backend="sdpa").named_parameters()]
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lies beside model\.safetensors\.index\.json"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors: is missing"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match=r"index\.json: is damaged"):
        load(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"has neither model\.safetensors nor"):
        load(folder)


def test_no_weight_that_is_not_finite_is_ever_written(tmp_path):
    with pytest.raises(InputError, match=r"w has 1 weights that are NaN or infinite"):
        write_weights(tmp_path, {"w": (2,)}, lambda _: torch.tensor([1.0, 1e39]), torch.bfloat16)


def test_an_adapter_is_not_taken_for_a_model(make_model):
    folder = make_model()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter_config\.json: is an adapter; merge it"):
        load(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "a/b.safetensors"])
def test_an_index_names_files_beside_it(name, make_model):
    folder = make_model()
    index = {"weight_map": {NORM: name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lies in another folder"):
        load(folder)


def test_a_tensor_in_two_files_is_refused(make_model):
    folder = make_model()
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "one.safetensors")
    save_file({NORM: tensors[NORM] + 1}, folder / "two.safetensors")
    mapping = dict.fromkeys(tensors, "one.safetensors") | {NORM: "two.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"two.safetensors: holds {NORM}, as one.safetensors"):
        load(folder)
