import os

import pytest

from longrun.evaluation.sandbox.scratch import Scratch, remove_tree


def test_the_deepest_nest_is_removed(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    before = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(2000):  # 400,000 characters of path, a hundred times what a path may have
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        with open("file", "w"):
            pass
    finally:
        os.chdir(before)
    remove_tree(top)
    assert not top.exists()


def test_links_are_removed_and_what_they_name_is_not(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "link").symlink_to(kept)
    (top / "a" / "link").symlink_to(kept / "file")
    remove_tree(top)
    assert not top.exists()
    assert (kept / "file").read_text() == "x"


def test_what_is_no_folder_is_named_and_left(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    remove_tree(tmp_path / "file")
    assert "was not removed" in caplog.text


def test_what_has_no_lock_is_swept_and_what_is_in_use_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "longrun-code-left"
    (left / "a" / "b").mkdir(parents=True)
    other = tmp_path / "somebody-else"
    other.mkdir()
    first = Scratch()
    made = first.make()
    second = Scratch()
    assert not left.exists()
    assert other.exists()
    assert os.path.isdir(made)
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_folders_of_other_users_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / "longrun-code-theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    Scratch().close()
    assert theirs.exists()
