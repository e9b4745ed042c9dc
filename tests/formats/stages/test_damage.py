"""What happens to files after their stage has finished is noticed by whoever uses them."""

import json
import os
import time
from pathlib import Path

import pytest

from longrun.config.settings import StageConfig, source
from longrun.errors import InputError
from longrun.formats.stages import damage
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.damage import check_sizes, find_damage, verify
from longrun.formats.stages.fingerprint import of_path
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import open_stage


class MakeConfig(StageConfig):
    """Writes two files."""


class UseConfig(StageConfig):
    """Reads all but binary files of another stage."""

    made: Path = source(unread=["*.bin"])


class AnewConfig(UseConfig):
    """Trusts no earlier reading."""

    verifies_anew = True


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with open_stage("make", MakeConfig(output_dir=tmp_path / "made")) as stage:
        (stage.folder / "deep").mkdir()
        write_text(stage.folder / "deep/a.txt", "some text")
        write_text(stage.folder / "b.bin", "numbers")
        stage.finish(counts={})
    return tmp_path / "made"


def use(made: Path, kind: type[UseConfig] = UseConfig) -> None:
    with open_stage("use", kind(made=made, output_dir=made.parent / "used")):
        pass


def change(path: Path, content: bytes) -> None:
    """Write other bytes of the same number, and let the clock of the file system pass by."""
    time.sleep(0.01)
    assert len(content) == path.stat().st_size
    path.write_bytes(content)


def again(made: Path) -> None:
    with open_stage("make", MakeConfig(output_dir=made)) as stage:
        assert stage.finished


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: os.truncate(path, 3)])
def test_a_finished_stage_with_a_missing_or_cut_file_is_not_up_to_date(made, spoil):
    again(made)
    spoil(made / "deep/a.txt")
    for trust in (again, use, of_path_of, check_sizes):
        with pytest.raises(InputError, match=r"deep/a\.txt: (is missing|has 3 bytes, written wer)"):
            trust(made)


def of_path_of(made):
    of_path(made, "made")


def test_a_file_inside_a_stage_is_known_as_its_output(made):
    of_path(made / "deep", "x")
    of_path(made / "deep/a.txt", "x")
    os.truncate(made / "deep/a.txt", 3)
    for place in (made / "deep", made / "deep/a.txt"):
        with pytest.raises(InputError, match="has 3 bytes"):
            of_path(place, "x")
    of_path(made / "b.bin", "x")


def test_changed_bytes_are_noticed_by_the_first_stage_that_reads_them(made):
    change(made / "deep/a.txt", b"some tExt")
    with pytest.raises(InputError, match=r"deep/a\.txt: is damaged .*run its stage again"):
        use(made)


def test_bytes_that_change_after_they_were_found_whole_are_noticed_too(made):
    use(made)
    before = (made / "deep/a.txt").stat()
    change(made / "deep/a.txt", b"some tExt")
    os.utime(made / "deep/a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="is damaged"):
        use(made)


def test_what_a_stage_does_not_read_is_none_of_its_business(made):
    change(made / "b.bin", b"numbErs")
    use(made)
    assert [line.partition(" (")[0] for line in find_damage(made)] == [f"{made}/b.bin: is damaged"]


def test_files_are_read_once_and_by_careful_stages_every_time(made, monkeypatch):
    read = []
    checksum_of = damage.checksum_of
    monkeypatch.setattr(damage, "checksum_of", lambda path: read.append(path) or checksum_of(path))
    use(made)
    assert [path.name for path in read] == ["a.txt"]
    use(made)
    assert len(read) == 1
    use(made, AnewConfig)
    assert len(read) == 2


@pytest.mark.parametrize("memory", ["", "[]", "null", '{"deep/a.txt": 3}', "\udcff"])
def test_a_spoilt_memory_only_costs_another_reading(made, memory):
    use(made)
    (made / ".verified.json").write_bytes(memory.encode(errors="surrogateescape"))
    use(made)
    change(made / "deep/a.txt", b"some tExt")
    with pytest.raises(InputError, match="is damaged"):
        use(made)


def test_where_nothing_can_be_written_files_are_compared_every_time(made, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(damage, "write_text", refuse)
    use(made)
    assert not (made / ".verified.json").exists()


def test_any_change_of_the_manifest_is_noticed(made):
    whole = json.loads((made / "manifest.json").read_text())
    for key in whole:
        changed = {name: value for name, value in whole.items() if name != key}
        (made / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"manifest\.json: is damaged"):
            Manifest.read(made)
    for text in ("", "null", "[]", "3", '"x"', "{}", "[" * 100):
        (made / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json: is damaged"):
            Manifest.read(made)


def test_a_folder_that_the_output_speaks_of_must_stay_what_it_was(made, tmp_path):
    folder = tmp_path / "index"
    with open_stage("index", UseConfig(made=made, output_dir=folder)) as stage:
        write_text(folder / "index.json", "[0]")
        stage.finish(counts={}, beneath={"../made": Manifest.read(made).fingerprint})
    verify(folder)
    os.truncate(made / "b.bin", 1)
    for trust in (check_sizes, verify, of_path_of):
        with pytest.raises(InputError, match=r"b\.bin: has 1 bytes"):
            trust(folder)
    (made / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"index: its .*made is gone; make it again"):
        check_sizes(folder)
    with open_stage("remake", MakeConfig(output_dir=tmp_path / "other")) as stage:
        stage.finish(counts={})
    (tmp_path / "other/manifest.json").rename(made / "manifest.json")
    with pytest.raises(InputError, match=r"was made anew .*; run index again"):
        check_sizes(folder)


def test_a_strange_manifest_in_a_folder_of_records_is_no_stage(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "a.jsonl").write_text("{}")
    of_path(tmp_path / "a.jsonl", "data")
