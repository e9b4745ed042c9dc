import subprocess
from pathlib import Path

import pytest

import longrun
from longrun.errors import InputError
from longrun.launch import snapshot
from longrun.launch.snapshot import copy_longrun, copy_repository


def test_equal_code_is_one_copy_that_can_be_imported(tmp_path):
    copy = copy_longrun(tmp_path)
    assert not copy.place.exists()
    copy.make()
    copy.make()
    assert copy_longrun(tmp_path).place == copy.place
    package = Path(longrun.__file__).parent
    for name in ("errors.py", "recipes/demo.yaml"):
        assert (copy.place / "longrun" / name).read_bytes() == (package / name).read_bytes()
    assert not list(copy.place.rglob("__pycache__"))
    assert [path.name for path in copy.place.parent.iterdir()] == [copy.place.name]


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "repository"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/program.py").write_text("old")
    (folder / "data.bin").write_text("ignored")
    (folder / ".gitignore").write_text("data.bin\n")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


def test_a_repository_is_copied_as_it_is_without_what_git_ignores(tmp_path, repository):
    first = copy_repository(repository / "inner", tmp_path / "runs")
    first.make()
    assert (first.place / "inner/program.py").read_text() == "old"
    assert not (first.place / "data.bin").exists()
    (repository / "inner/program.py").write_text("new")
    second = copy_repository(repository, tmp_path / "runs")
    second.make()
    assert second.place != first.place
    assert (first.place / "inner/program.py").read_text() == "old"
    (repository / "inner/program.py").write_text("old")
    assert copy_repository(repository, tmp_path / "runs").place == first.place


def test_what_cannot_be_copied_is_named(tmp_path, repository, monkeypatch):
    with pytest.raises(InputError, match="code: repository needs a git repository"):
        copy_repository(tmp_path, tmp_path / "runs")
    monkeypatch.setattr(snapshot, "MAX_BYTES", 5)
    with pytest.raises(InputError, match=r"\(largest: \.gitignore\); list data in \.gitignore"):
        copy_repository(repository, tmp_path / "runs")
