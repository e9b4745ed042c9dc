import numpy as np
import pytest

from longrun.config.stages import LossWeights, TrainConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.documents import Document
from longrun.formats.plans import PackSet
from longrun.formats.spans import SpanKind
from longrun.nn.arch import Arch
from longrun.nn.layout import build_layout
from longrun.train.batches import PackId
from longrun.train.supervision import (
    HeldOutReader,
    PackReader,
    attention_share,
    build_batches,
    weigh,
    weight_table,
)


def test_by_default_the_model_learns_what_it_has_to_write_itself():
    table = weight_table(LossWeights())
    learned = {kind.name for kind in SpanKind if table[kind]}
    assert learned == {"THINKING", "CODE", "ANSWER", "STOP"}


def test_weights_follow_the_settings_but_stop_and_prompt_do_not():
    settings = LossWeights(thinking=0, code=2, answer=0.5, tool_output=3, notice=4)
    table = weight_table(settings)
    kinds = {kind.name: table[kind] for kind in SpanKind}
    expected = [0, 0, 2, 3, 4, 0.5, 1]
    assert list(kinds.values()) == expected
    assert weight_table(LossWeights(answer=0, thinking=0, code=0))[SpanKind.STOP] == 1


def test_every_token_has_the_weight_of_its_span():
    kinds = np.array([SpanKind.PROMPT, SpanKind.ANSWER, SpanKind.STOP], np.int8)
    document = Document(np.arange(6, dtype=np.int32), np.array([2, 3, 1], np.int32), kinds)
    tokens, weights = weigh(document, weight_table(LossWeights(answer=0.25)))
    assert tokens.tolist() == [0, 1, 2, 3, 4, 5]
    assert weights.tolist() == [0, 0, 0.25, 0.25, 0.25, 1]


def test_packs_come_with_their_documents_costs_and_origins(world):
    packs = PackSet.open(world.packs)
    reader = PackReader(packs, LossWeights(), 0.01)
    pack = PackId(1, 2)
    indices = packs.plan(1)[2]
    lengths = [len(tokens) for tokens, _ in reader.read(pack)]
    assert lengths == [world.lengths[index] for index in indices]
    assert reader.cost(pack) == pytest.approx(sum(n + 0.01 * n * n for n in lengths))
    assert [origin.line for origin in reader.origins([pack])] == [index + 2 for index in indices]
    assert reader.cost(PackId(3, 2)) == reader.cost(pack)


def test_batches_in_tokens_count_the_tokens_that_carry_loss(world, tmp_path):
    packs = PackSet.open(world.packs)
    weights = {"answer": 0, "code": 0.5}
    settings = {"global_batch_tokens": 40, "global_batch_size": None, "loss_weights": weights}
    config = world.config(tmp_path, **settings)
    with pytest.raises(ConfigError, match="either global_batch_size or global_batch_tokens"):
        world.config(tmp_path, global_batch_size=4, global_batch_tokens=40)
    assert TrainConfig.parse(config.model_dump(mode="json"), "train") == config
    batches = build_batches(config, packs)
    reader = PackReader(packs, config.loss_weights, 0.01)
    for step in range(6):
        counts = [
            sum(
                int(build_layout([document]).weights.count_nonzero()) for document in reader.read(p)
            )
            for p in batches[step]
        ]
        assert sum(counts) >= 40 > sum(counts[:-1])


def test_batches_in_tokens_need_a_supervised_token(world, tmp_path, monkeypatch):
    table = np.zeros(7, np.float32)
    monkeypatch.setattr("longrun.train.supervision.weight_table", lambda weights: table)
    config = world.config(tmp_path, global_batch_size=None, global_batch_tokens=40)
    with pytest.raises(InputError, match="no token is supervised"):
        build_batches(config, PackSet.open(world.packs))


def test_held_out_documents_are_read_once_each_by_mode(world):
    packs = PackSet.open(world.packs)
    reader = HeldOutReader(packs, LossWeights(), 0.01)
    read = [
        (reader.mode(part), tokens.tolist())
        for part in range(len(reader.parts))
        for tokens, _ in reader.read(part)
    ]
    documents = packs.validation
    expected = [
        (documents.modes[documents.mode_indices[index]], documents[index].tokens.tolist())
        for index in range(len(documents))
    ]
    assert sorted(read) == sorted(expected)


def test_the_share_of_attention_is_that_of_its_multiplications():
    arch = Arch.from_hf(
        {
            "model_type": "qwen2",
            "vocab_size": 100,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 64,
        },
        "config.json",
    )
    projections = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8
    matrices = 3 * (projections + 3 * 8 * 16) + 8 * 100
    assert attention_share(arch) == 3 * 8 / matrices
