import torch

from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.optim.groups import decay_groups, is_hidden_matrix


def tiny_model(tied: bool) -> Decoder:
    config = {
        "model_type": "qwen2",
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
    }
    return Decoder(Arch.from_hf(config, "config.json"), backend="sdpa")


def test_weight_decay_pulls_on_matrices_only():
    model = tiny_model(tied=False)
    matrices, others = decay_groups(model.named_parameters(), 0.1)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim == 2 for _, parameter in matrices["params"])
    assert all("norm" in name or name.endswith("bias") for name, _ in others["params"])


def test_every_parameter_is_in_exactly_one_group():
    model = tiny_model(tied=True)
    grouped = [
        name for group in decay_groups(model.named_parameters(), 0.1) for name, _ in group["params"]
    ]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())


def test_no_empty_group_is_made():
    only_bias = [("bias", torch.nn.Parameter(torch.zeros(2)))]
    assert len(decay_groups(only_bias, 0.1)) == 1


def test_tables_norms_and_biases_are_not_hidden_matrices():
    model = tiny_model(tied=False)
    hidden = {name for name, p in model.named_parameters() if is_hidden_matrix(name, p)}
    assert len(hidden) == 2 * 7
    assert all(".layers." in name and name.endswith("_proj.weight") for name in hidden)
