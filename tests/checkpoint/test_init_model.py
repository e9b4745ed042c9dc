import json

import torch
from safetensors.torch import load_file


def test_the_vocabulary_has_exactly_the_ids_of_the_tokenizer(make_model):
    folder = make_model()
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 259
    assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape == (259, 16)


def test_the_seed_decides_the_weights(make_model):
    one, two, other = (
        load_file(make_model(name, seed=seed) / "model.safetensors")
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_finished_model_is_left_alone(make_model):
    folder = make_model()
    before = (folder / "manifest.json").read_bytes()
    make_model()
    assert (folder / "manifest.json").read_bytes() == before
    assert not (folder / "parts").exists()
