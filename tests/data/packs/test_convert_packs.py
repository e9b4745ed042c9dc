import numpy as np
import pytest

from longrun.config.convert import ConvertPacksConfig
from longrun.config.stages import PackConfig
from longrun.data.packs import convert_packs, pack
from longrun.errors import ConfigError
from longrun.formats.packed_arrays import array_paths, open_arrays
from longrun.formats.plans import PackSet
from longrun.formats.stages.damage import find_damage


def convert(**settings):
    convert_packs.run(ConvertPacksConfig(**settings))


@pytest.mark.parametrize("context_parallel", [1, 2])
def test_out_in_and_out_again_gives_the_same_arrays(context_parallel, prepared, tmp_path):
    pack.run(PackConfig(documents=prepared, output_dir=tmp_path / "packs", pack_size=1024))
    settings = {"pad_id": 0, "context_parallel": context_parallel}
    convert_packs.run(
        ConvertPacksConfig(packs=tmp_path / "packs", output_dir=tmp_path / "arrays", **settings)
    )
    prefix = tmp_path / "arrays" / "packed_1024_seed0.npy"
    convert_packs.run(
        ConvertPacksConfig(arrays=prefix, like=prepared, output_dir=tmp_path / "in", **settings)
    )
    before, after = PackSet.open(tmp_path / "packs"), PackSet.open(tmp_path / "in")
    plans = before.plan(0), after.plan(0)
    assert len(plans[0]) == len(plans[1])
    for number in range(len(plans[0])):
        for one, two in zip(plans[0][number], plans[1][number], strict=True):
            expected, found = before.training[int(one)], after.training[int(two)]
            assert np.array_equal(expected.tokens, found.tokens)
            assert expected.span_lengths[0] == found.span_lengths[0]
    assert not list(find_damage(tmp_path / "in"))
    assert (after.source / "tokenizer" / "tokenizer.json").is_file()
    convert_packs.run(
        ConvertPacksConfig(packs=tmp_path / "in", output_dir=tmp_path / "again", **settings)
    )
    again = tmp_path / "again" / f"packed_{after.pack_size}_seed0"
    for one, two in zip(array_paths(prefix), array_paths(again), strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert len(open_arrays(prefix)[0]) == len(plans[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set one of packs"),
        ({"packs": "a", "arrays": "b", "like": "c"}, "set one of packs"),
        ({"packs": "a", "mode": "tir"}, "mode belongs to arrays, it has no effect on packs"),
        ({"arrays": "a", "like": "b", "epoch": 1}, "epoch belongs to packs"),
        ({"packs": "a", "pad_id": None}, "pad_id: Input should be a valid integer"),
        ({"packs": "a", "like": "b"}, "like belongs to arrays"),
        ({"arrays": "b"}, "arrays and like go together"),
    ],
)
def test_one_artefact_must_be_named_and_nothing_that_has_no_effect_on_it(settings, message):
    with pytest.raises(ConfigError, match=message):
        ConvertPacksConfig.parse({"output_dir": "o", "pad_id": 0, **settings}, "convert_packs")
