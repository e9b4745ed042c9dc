import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from longrun.errors import InputError
from longrun.evaluation.generation.cached_model import CachedModel, read_stop_ids

SIZES = {
    "vocab_size": 67,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "head_dim": 4,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "llama": LlamaConfig(**SIZES, attention_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
}
TEXT = [
    int(token) for token in torch.randint(67, (140,), generator=torch.Generator().manual_seed(1))
]


@pytest.fixture(scope="module", params=list(CONFIGS))
def both(request, tmp_path_factory):
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(CONFIGS[request.param]).float().eval()
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    with torch.no_grad():
        logits_TV = theirs(input_ids=torch.tensor([TEXT])).logits[0]
    return CachedModel(folder), logits_TV


def test_reading_and_writing_give_the_logits_of_one_whole_pass(both):
    model, wanted_TV = both
    read_PV, kept = model.step([], [(None, TEXT[:5]), (None, TEXT[:100])])
    torch.testing.assert_close(read_PV, wanted_TV[[4, 99]], atol=1e-4, rtol=1e-4)
    table = model.new_table(100)
    table.add(kept[1])
    more_PV, (longer,) = model.step([(table, [TEXT[100]])], [(kept[0], TEXT[5:40])])
    torch.testing.assert_close(more_PV, wanted_TV[[100, 39]], atol=1e-4, rtol=1e-4)
    assert longer.shape[-2] == 40
    for place in range(101, 128):
        (logits_V,), _ = model.step([(table, [TEXT[place]])], [])
        torch.testing.assert_close(logits_V, wanted_TV[place], atol=1e-4, rtol=1e-4)


def test_no_bit_of_a_row_depends_on_the_others(both):
    model, _ = both
    assert model.is_independent()
    _, (kept,) = model.step([], [(None, TEXT[:50])])
    seen = []
    for others in (0, 1, 7, 30):
        table = model.new_table(64)
        for other in range(others):
            table.add(model.step([], [(None, TEXT[other : 2 * other + 1])])[1][0])
        table.add(kept)
        tokens = [TEXT[other] for other in range(others)]
        logits_PV, _ = model.step([(table, [*tokens, TEXT[50]])], [(None, TEXT[: others + 1])])
        seen.append(logits_PV[others])
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_a_dependence_on_the_batch_is_noticed(both, monkeypatch):
    model, _ = both
    forward = model._forward

    def shifted(tokens, *rest):
        return forward(tokens, *rest) + len(tokens) * 1e-6

    monkeypatch.setattr(model, "_forward", shifted)
    assert not model.is_independent()


def test_the_ends_of_a_model_folder_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert read_stop_ids(tmp_path) == {3}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 5]}))
    assert read_stop_ids(tmp_path) == {3, 4, 5}
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config.json: is not valid JSON"):
        read_stop_ids(tmp_path)
