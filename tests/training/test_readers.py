import numpy as np
import pytest

from longrun.config.training import LossWeights, TrainConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.documents import Document
from longrun.formats.plans import PackSet
from longrun.formats.text.spans import SpanKind
from longrun.nn.pack import build_pack
from longrun.training.balance import Ranks
from longrun.training.batches import PackId
from longrun.training.readers import (
    HeldOutReader,
    PackReader,
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
    assert [origin.line for origin in reader.origins(indices)] == [index + 2 for index in indices]
    again = reader.read(PackId(3, 2))
    assert [tokens.tolist() for tokens, _ in again] == [t.tolist() for t, _ in reader.read(pack)]


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
            sum(int(build_pack([document]).weights.count_nonzero()) for document in reader.read(p))
            for p in batches[step]
        ]
        assert sum(counts) >= 40 > sum(counts[:-1])


def test_batches_in_tokens_need_a_supervised_token(world, tmp_path, monkeypatch):
    table = np.zeros(7, np.float32)
    monkeypatch.setattr("longrun.training.readers.weight_table", lambda weights: table)
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


@pytest.mark.parametrize("balance", ["packs", "documents"])
def test_a_deal_names_every_document_of_its_batch_by_its_number_in_the_data(world, balance):
    packs = PackSet.open(world.packs)
    reader = PackReader(packs, LossWeights(), 0.01)
    batch = [PackId(0, 1), PackId(1, 2), PackId(2, 0)]
    dealt = reader.deal(batch, Ranks(2), balance)
    expected = np.concatenate([packs.plan(pack.epoch)[pack.pack] for pack in batch])
    found = dealt.documents(range(dealt.num_micro_steps))
    assert sorted(found) == sorted(expected.tolist())
    read = reader.read_documents(dealt.hands[0][0])
    assert [len(tokens) for tokens, _ in read] == [world.lengths[n] for n in dealt.hands[0][0]]


def test_a_window_sorts_the_packs_by_the_time_that_the_model_takes_for_them(world, tmp_path):
    packs = PackSet.open(world.packs)
    plain = build_batches(world.config(tmp_path), packs)
    sorted_ = build_batches(world.config(tmp_path, balance_window=2), packs)
    lengths = [
        [sum(world.lengths[index] for index in packs.plan(0)[pack.pack]) for pack in sorted_[step]]
        for step in (0, 1)
    ]
    low, high = sorted(lengths, key=sum)
    assert max(low) <= min(high)
    together = [pack for step in (0, 1) for pack in plain[step]]
    assert sorted(together) == sorted(pack for step in (0, 1) for pack in sorted_[step])
    with pytest.raises(ConfigError, match="balance_window needs global_batch_size"):
        world.config(tmp_path, balance_window=2, global_batch_tokens=40, global_batch_size=None)
