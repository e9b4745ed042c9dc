import json
from collections import Counter

import numpy as np
import pytest

from longrun.config.stages import PackConfig
from longrun.data.packs import pack
from longrun.errors import InputError
from longrun.formats.plans import PackSet


def make(prepared, tmp_path, **settings) -> PackConfig:
    values = {"documents": prepared, "output_dir": tmp_path / "packs", "pack_size": 2048}
    return PackConfig.parse(values | settings, "pack")


def test_every_document_is_in_one_pack_of_every_epoch(prepared, tmp_path):
    manifest = pack.run(make(prepared, tmp_path, num_epochs=3))
    packs = PackSet.open(tmp_path / "packs")
    assert packs.num_epochs == 3
    for epoch in range(3):
        plan = packs.plan(epoch)
        assert sorted(plan.documents.tolist()) == list(range(len(packs.training)))
        for at in range(len(plan)):
            assert packs.training.lengths[plan[at]].sum() <= 2048
    held_out = packs.validation_plan
    assert sorted(held_out.documents.tolist()) == list(range(len(packs.validation)))
    assert packs.plan(0).documents.tolist() != packs.plan(1).documents.tolist()
    assert manifest.ledger.records_in == len(packs.training) + len(packs.validation)


def test_documents_longer_than_a_pack_are_dropped_and_counted(prepared, tmp_path):
    whole = PackSet.open(_packed(prepared, tmp_path, output_dir=tmp_path / "whole"))
    bound = int(np.quantile(whole.training.lengths, 0.9))
    config = make(prepared, tmp_path, pack_size=bound, max_dropped_share=0.5)
    ledger = pack.run(config).ledger
    packs = PackSet.open(tmp_path / "packs")
    fitting = np.flatnonzero(packs.training.lengths <= bound)
    assert sorted(packs.plan(0).documents.tolist()) == fitting.tolist()
    dropped = sum(int((part.lengths > bound).sum()) for part in (packs.training, packs.validation))
    assert ledger.dropped == {"longer than pack_size": dropped}
    assert ledger.kept + dropped == ledger.records_in
    tokens = sum(int(part.lengths.sum()) for part in (packs.training, packs.validation))
    assert ledger.tokens_kept + ledger.tokens_dropped["longer than pack_size"] == tokens


def _packed(prepared, tmp_path, **settings):
    config = make(prepared, tmp_path, **settings)
    pack.run(config)
    return config.output_dir


def test_too_many_dropped_documents_stop_the_stage(prepared, tmp_path):
    message = r"documents \(\d+\.\d%\) are longer than pack_size 80; pack\.max_dropped_share allows"
    with pytest.raises(InputError, match=message):
        pack.run(make(prepared, tmp_path, pack_size=80))


def test_an_over_long_document_can_be_an_error_that_names_its_line(prepared, tmp_path):
    message = r"records\.jsonl:\d+: the document has \d+ tokens, a pack 80; set pack\.pack_size"
    with pytest.raises(InputError, match=message):
        pack.run(make(prepared, tmp_path, pack_size=80, over_long="error"))


def test_documents_of_an_unfinished_stage_are_refused(prepared, tmp_path):
    (prepared / "manifest.json").unlink()
    with pytest.raises(InputError, match="not the output of a finished stage"):
        pack.run(make(prepared, tmp_path))
    assert not (tmp_path / "packs").exists()
    with pytest.raises(InputError, match="none: does not exist: not the output of a finished"):
        pack.run(make(tmp_path / "none", tmp_path))


def test_figures_describe_the_first_epoch(prepared, tmp_path):
    manifest = pack.run(make(prepared, tmp_path, num_epochs=2))
    stats = json.loads((tmp_path / "packs" / "stats.json").read_text())
    info = json.loads((tmp_path / "packs" / "packs.json").read_text())
    plan = PackSet.open(tmp_path / "packs").plan(0)
    assert info["num_packs"][0] == len(plan) == manifest.counts["packs"]
    assert stats["fill"] == pytest.approx(info["fill"][0])
    assert sum(stats["fill_histogram"]["counts"]) == len(plan)
    per_pack = stats["documents_per_pack"]["counts"]
    assert sum(count * size for size, count in enumerate(per_pack)) == len(plan.documents)


def test_the_same_settings_give_the_same_bytes(prepared, tmp_path, samples):
    one = _packed(prepared, tmp_path, output_dir=tmp_path / "one", num_epochs=2)
    two = _packed(prepared, tmp_path, output_dir=tmp_path / "two", num_epochs=2)
    assert samples.contents(one) == samples.contents(two)


def test_without_held_out_documents_validation_has_no_packs(make_config, samples, tmp_path):
    from longrun.data.documents import prepare

    data = samples.write_jsonl(tmp_path / "a.jsonl", samples.records(20))
    prepare.run(make_config(data=data))
    pack.run(make(tmp_path / "out", tmp_path))
    assert len(PackSet.open(tmp_path / "packs").validation_plan) == 0


def test_over_long_responses_can_be_cut_and_prompts_never_are(prepared, tmp_path):
    whole = PackSet.open(_packed(prepared, tmp_path, output_dir=tmp_path / "whole"))
    prompts = whole.training.prompt_tokens()
    bound = int(np.quantile(prompts, 0.8))
    assert (prompts >= bound).any()
    config = make(
        prepared, tmp_path, pack_size=bound, over_long="truncate-response", max_dropped_share=1.0
    )
    ledger = pack.run(config).ledger
    packs = PackSet.open(tmp_path / "packs")
    planned = packs.plan(0).documents
    assert sorted(planned.tolist()) == np.flatnonzero(prompts < bound).tolist()
    for at in planned.tolist():
        before, after = whole.training[at], packs.training[at]
        assert len(after.tokens) == packs.training.lengths[at] == min(len(before.tokens), bound)
        assert np.array_equal(after.tokens, before.tokens[:bound])
        assert after.span_lengths.sum() == len(after.tokens)
        assert after.span_lengths.all()
        kinds = np.repeat(before.span_kinds, before.span_lengths)[:bound]
        assert np.array_equal(np.repeat(after.span_kinds, after.span_lengths), kinds)
    sets = (whole.training, whole.validation)
    tokens = sum(int(one.lengths.sum()) for one in sets)
    assert ledger.tokens_kept + sum(ledger.tokens_dropped.values()) == tokens
    assert ledger.tokens_dropped["response cut to pack_size"] > 0


@pytest.mark.parametrize("over_long", ["drop", "truncate-response"])
def test_over_long_documents_are_counted_by_source_with_their_answers(
    over_long, prepared, tmp_path
):
    whole = PackSet.open(_packed(prepared, tmp_path, output_dir=tmp_path / "whole"))
    sets = (whole.training, whole.validation)
    bound = int(max(one.lengths.max() for one in sets)) - 1
    _packed(prepared, tmp_path, pack_size=bound, over_long=over_long)
    (path, found), *others = json.loads((tmp_path / "packs" / "stats.json").read_text())[
        "over_long"
    ].items()
    count = sum(int((one.lengths > bound).sum()) for one in sets)
    cut = over_long == "truncate-response"
    assert not others
    assert path.endswith("records.jsonl")
    assert found == {
        "documents": count,
        "tokens": count * (bound + 1),
        "tokens_lost": count if cut else count * (bound + 1),
        "answers_kept": count if cut else 0,  # the stop token alone was cut off
    }


@pytest.mark.parametrize(
    ("weight", "times"), [(0.0, {0}), (0.5, {0, 1}), (1.0, {1}), (2.5, {2, 3})]
)
def test_a_weight_says_how_often_documents_of_a_source_are_in_an_epoch(
    weight, times, make_config, samples, tmp_path
):
    from longrun.data.documents import prepare

    data = [
        str(samples.write_jsonl(tmp_path / f"{at}.jsonl", samples.records(150, at)))
        for at in (0, 1)
    ]
    prepare.run(make_config(data=data))
    weights = {"*/1.jsonl": weight}
    pack.run(make(tmp_path / "out", tmp_path, weights=weights, num_epochs=2))
    packs = PackSet.open(tmp_path / "packs")
    counts = [Counter(packs.plan(epoch).documents.tolist()) for epoch in (0, 1)]
    other = np.flatnonzero(packs.training.source_indices == 1).tolist()
    assert {counts[0][at] for at in range(len(packs.training)) if at not in set(other)} == {1}
    assert {counts[0][at] for at in other} == times
    mean = sum(counts[0][at] for at in other) / len(other)
    assert abs(mean - weight) < 0.13
    drawn_anew = [counts[0][at] for at in other] != [counts[1][at] for at in other]
    assert drawn_anew == (weight % 1 > 0)


def test_a_weight_that_fits_no_source_is_named(prepared, tmp_path):
    with pytest.raises(InputError, match=r"pack\.weights: \*/tir fits no source file; there are /"):
        pack.run(make(prepared, tmp_path, weights={"*/tir": 2.0}))
