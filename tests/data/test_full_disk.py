"""A disk that fills up, at every file in turn: one line, nothing half-written, and it goes on.

The limit on the size of a file (``RLIMIT_FSIZE``) stands for the disk: the system refuses a write
in the same way, and the place where it does can be chosen to the byte.
"""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from longrun.config.stages import MergeConfig, PackConfig
from longrun.data.documents import merge, prepare
from longrun.data.packs import pack
from longrun.errors import ResourceError

MESSAGE = r"^\S+: no space left to write it \(\d+ MB free .* then run the same command again$"


@contextmanager
def files_of_at_most(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def part(make_config, samples, tmp_path):
    """Prepare part N/2 of the same records into a folder of that name."""
    data = samples.write_jsonl(tmp_path / "records.jsonl", samples.records(200))

    def prepare_part(share, folder):
        settings = {"part": share, "part_bytes": 65_536, "validation_share": 0.2}
        config = make_config(data=str(data), output_dir=folder, **settings)
        return lambda: prepare.run(config)

    return prepare_part


@pytest.fixture
def stages(part, tmp_path):
    """Return for every verb a function from an output folder to the run of the stage."""
    parts = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(parts, 1):
        part(f"{number}/2", folder)()
    whole = tmp_path / "whole"
    part(None, whole)()
    return {
        "prepare": lambda folder: part(None, folder),
        "merge": lambda folder: lambda: merge.run(MergeConfig(parts=parts, output_dir=folder)),
        "pack": lambda folder: (
            lambda: pack.run(
                PackConfig(documents=whole, output_dir=folder, pack_size=2048, num_epochs=2)
            )
        ),
    }


@pytest.mark.usefixtures("capsys")  # captured output is no file then
@pytest.mark.parametrize("verb", ["prepare", "merge", "pack"])
def test_a_full_disk_is_one_line_and_the_stage_goes_on_when_there_is_room(
    verb, stages, samples, tmp_path
):
    fresh = tmp_path / "fresh"
    stages[verb](fresh)()
    expected = samples.contents(fresh)
    linked = {path.stat().st_size for path in fresh.rglob("*") if path.stat().st_nlink > 1}
    sizes = {path.stat().st_size for path in fresh.rglob("*") if path.is_file()} - linked
    for size in sorted(sizes - {0}):
        folder = tmp_path / f"full-{size}"
        run = stages[verb](folder)
        with files_of_at_most(size - 1), pytest.raises(ResourceError, match=MESSAGE):
            run()
        check_whole(folder, expected)
        run()
        assert samples.contents(folder) == expected


def check_whole(folder: Path, expected: dict[str, bytes]) -> None:
    """Check that every file under a name of its own is the whole one, and nothing else is left."""
    assert not (folder / "manifest.json").exists()
    assert not list(folder.rglob("*.tmp"))
    for name, content in expected.items():
        path = folder / name
        assert not path.exists() or path.read_bytes() == content, name
