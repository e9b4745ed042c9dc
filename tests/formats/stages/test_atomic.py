import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from longrun.errors import ResourceError
from longrun.formats.stages.atomic import atomic_file, atomic_folder, remove_leftovers, write_text


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"new%d" % (1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path):
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"


def test_what_killed_writers_left_is_removed(tmp_path: Path):
    (tmp_path / ".a.txt.123.tmp").write_text("half")
    (tmp_path / ".model.123.tmp").mkdir()
    (tmp_path / "kept").write_text("whole")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_full_disk_is_one_line_with_the_remedy_and_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from longrun.errors import ResourceError
        from longrun.formats.stages.atomic import atomic_file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))
        try:
            with atomic_file(Path({str(path)!r})) as file:
                file.write(bytes(100_000))
        except ResourceError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no space left" in done.stdout
    assert "run the same command again" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_dev_full_is_a_full_disk():
    from longrun.formats.stages.atomic import full_disk_named

    with pytest.raises(ResourceError, match="no space left"), full_disk_named(Path("/dev/full")):  # noqa: SIM117
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """Note every flush and rename, in order, by the name of what it is done to; all are done."""
    noted: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        noted.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        noted.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return noted


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path: Path, calls):
    write_text(tmp_path / "a.txt", "whole")
    aside = f".a.txt.{os.getpid()}.tmp"
    assert calls == [("fsync", aside), ("rename", "a.txt"), ("fsync", tmp_path.name)]


def test_everything_in_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, calls):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "inner").mkdir()
        (folder / "inner/weights").write_text("1")
    renamed = calls.index(("rename", "model"))
    flushed = {name for _, name in calls[:renamed]}
    assert flushed == {"weights", "inner", f".model.{os.getpid()}.tmp"}
    assert calls[renamed + 1 :] == [("fsync", tmp_path.name)]
