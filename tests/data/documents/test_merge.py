import random
import shutil
from pathlib import Path

import pytest

from longrun.config.stages import MergeConfig, PackConfig
from longrun.data.documents import merge, prepare
from longrun.data.packs import pack
from longrun.errors import InputError
from longrun.formats.documents import DocumentSet
from longrun.formats.stages.damage import find_damage


@pytest.fixture
def data(samples, tmp_path):
    rows = samples.records(400)
    rows[390] = rows[5]
    return [
        samples.write_jsonl(tmp_path / "one.jsonl", rows[:300]),
        samples.write_jsonl(tmp_path / "two.jsonl", rows[300:]),
    ]


@pytest.fixture
def make_part(make_config, data, tmp_path):
    def make(part, **settings):
        folder = tmp_path / f"part-{part.replace('/', '-') if part else 'whole'}"
        folder = settings.get("output_dir", folder)
        values = {
            "data": list(map(str, data)), "part_bytes": 65536, "validation_share": 0.2,
            "filters": [{"duplicates": "record"}], "output_dir": folder, "part": part,
        }  # fmt: skip
        prepare.run(make_config(**values | settings))
        return folder

    return make


def join(parts, folder):
    return merge.run(MergeConfig(parts=parts, output_dir=folder))


def test_parts_in_any_order_give_the_bytes_of_the_whole(make_part, tmp_path, samples):
    parts = [make_part(f"{number}/3") for number in (1, 2, 3)]
    random.Random(0).shuffle(parts)
    joined = join(parts, tmp_path / "joined")
    whole = make_part(None)
    assert samples.contents(tmp_path / "joined") == samples.contents(whole)
    assert joined.ledger.dropped == {"filter duplicates": 1}
    assert pack.run(PackConfig(documents=tmp_path / "joined", output_dir=tmp_path / "packs"))


def test_a_retried_part_and_a_retried_merge_change_nothing(make_part, tmp_path, samples):
    parts = [make_part("1/2"), make_part("2/2")]
    before = samples.contents(parts[0])
    shutil.rmtree(parts[0])
    assert samples.contents(make_part("1/2")) == before
    join(parts, tmp_path / "once")
    join(parts[::-1], tmp_path / "twice")
    (tmp_path / "twice" / "manifest.json").unlink()
    assert samples.contents(tmp_path / "once") == samples.contents(tmp_path / "twice")


def test_parts_that_do_not_fit_are_refused_with_the_difference(make_part, samples, tmp_path):
    one, two = make_part("1/2"), make_part("2/2")
    with pytest.raises(InputError, match="part 2/2 is missing"):
        join([one], tmp_path / "o")
    with pytest.raises(InputError, match="are both part 1/2"):
        join([one, one], tmp_path / "o")
    with pytest.raises(InputError, match="is not a part but whole"):
        join([one, make_part(None)], tmp_path / "o")
    with pytest.raises(InputError, match="filter duplicates has seen this data alone"):
        join([make_part(None), make_part(None)], tmp_path / "o")
    other = make_part("2/2", output_dir=tmp_path / "seed", seed=1)
    with pytest.raises(InputError, match=r"made differently .* prepare\.seed 0 -> 1"):
        join([one, other], tmp_path / "o")
    third = make_part("2/3", output_dir=tmp_path / "third")
    with pytest.raises(InputError, match=r"prepare\.part .2. -> .3."):
        join([one, third], tmp_path / "o")
    other_tokenizer = samples.write_tokenizer(tmp_path / "tok2", split=r"\d|\s|[^\s\d]+")
    other = make_part("2/2", output_dir=tmp_path / "tok", tokenizer=other_tokenizer)
    with pytest.raises(InputError, match=r"input tokenizer changed \(.*tok2\)"):
        join([one, other], tmp_path / "o")
    with pytest.raises(InputError, match="is part 1/2 of the documents; merge the parts first"):
        pack.run(PackConfig(documents=one, output_dir=tmp_path / "packs"))
    assert two.exists()


@pytest.mark.parametrize("part", ["0/2", "3/2", "x", "1/", "/2", "1-2"])
def test_a_part_is_two_numbers(part, make_config):
    from longrun.errors import ConfigError

    with pytest.raises(ConfigError, match=r"prepare\.part: .* part"):
        make_config(data="x.jsonl", part=part)


@pytest.fixture
def make_whole(make_config, samples, tmp_path):
    rows = samples.records(500)
    files = [
        samples.write_jsonl(tmp_path / "first.jsonl", rows[:200]),
        samples.write_jsonl(tmp_path / "second.jsonl", rows[200:]),
    ]

    def make(*chosen, **settings):
        folder = tmp_path / ("whole-" + "-".join(map(str, chosen)))
        values = {"data": [str(files[at]) for at in chosen], "part_bytes": 65536}
        values |= {"validation_share": 0.2, "output_dir": folder}
        prepare.run(make_config(**values | settings))
        return folder

    return make


def test_data_prepared_apart_gives_the_bytes_of_one_prepare(make_whole, samples, tmp_path):
    first, second = make_whole(0), make_whole(1)
    join([first, second], tmp_path / "joined")
    together = make_whole(0, 1)
    assert samples.contents(tmp_path / "joined") == samples.contents(together)
    assert list(find_damage(tmp_path / "joined")) == []


def test_the_order_of_whole_folders_is_the_order_of_the_data(make_whole, tmp_path):
    first, second = make_whole(0), make_whole(1)
    join([second, first], tmp_path / "joined")
    documents = DocumentSet.open(tmp_path / "joined" / "train")
    paths = [documents.origin(at).path for at in range(len(documents))]
    assert list(dict.fromkeys(Path(path).name for path in paths)) == [
        "second.jsonl",
        "first.jsonl",
    ]
    assert documents.origin(0).line < 10


def test_whole_folders_that_do_not_fit_are_refused_with_the_difference(make_whole, tmp_path):
    first = make_whole(0)
    with pytest.raises(InputError, match="is named twice"):
        join([first, first], tmp_path / "o")
    other = make_whole(1, code_style="fenced")
    with pytest.raises(InputError, match=r"made differently .* prepare\.code_style"):
        join([first, other], tmp_path / "o")
    assert not (tmp_path / "o").exists()
