"""Places and words that a shell can give: folders with =, bytes, read-only disks, no folders."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longrun.cli.main import main

SMALL = ["num_cot=3", "num_tir=3", "num_genselect=3", "num_held_out=3"]
RECIPE = """
name: r
stages:
  synthesize: {num_cot: 3, num_tir: 3, num_genselect: 3, num_held_out: 3}
"""


def longrun(folder: Path, *words: str | bytes, **environment: str | None):
    command = [sys.executable, "-m", "longrun", *words]
    merged = {**os.environ, **environment}
    env = {name: value for name, value in merged.items() if value is not None}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    done = longrun(folder, "synthesize", "output_dir=out", *SMALL, "--expname=2024")
    assert done.returncode == 0, done.stderr
    assert "done" in longrun(folder, "status", "2024").stdout
    again = longrun(tmp_path, "synthesize", "./lr=0.1/out/config.yaml", "output_dir=lr=0.1/out")
    assert "up to date" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "latin.yaml"], "latin.yaml: is not a text file in UTF-8"),
        (["prepare", "folder"], "folder: is a folder; name a YAML file"),
        (["run", "x" * 300 + ".yaml"], "file name too long; a name has at most 255 bytes"),
        (["status", "x" * 300], "has at most 255 bytes"),
        (["pack", "documents=d", "output_dir=" + "x" * 300], "each name in it 255"),
        (["pack", "documents=d", "output_dir=2024"], "is written with ./ in front (got 2024)"),
        (["pack", "documents=d", "output_dir=o", "seed=true"], "true has no place here"),
        (["pack", "documents=d", "output_dir=o", "max_dropped_share=.nan"], "finite number"),
        (["pack", "documents=d", "output_dir=o", "seed=!!int x"], "'x' is not a whole number"),
        (["pack", "documents=d", "output_dir=o", "seed=2024-13-45"], "(got '2024-13-45')"),
        (["pack", "documents=d", "output_dir=o\x01/x"], "cannot hold control characters"),
        (["synthesize", "output_dir=latin.yaml/x"], "not a directory"),
        (["setup", "../up", "executor=local"], "'../up' is not a name"),
        (["setup", "new"], "setup: no answer; give it as executor=VALUE"),
    ],
    ids=range(14),
)
def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path, words, message, monkeypatch, capsys):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["longrun", *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path.parent / "up.yaml").exists()


def test_bytes_that_are_no_text_are_refused(tmp_path):
    done = longrun(tmp_path, b"run", b"\xff.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("longrun: argument 2: '\\udcff.yaml' is not UTF-8")


def test_no_home_and_no_usable_temporary_folder_are_no_obstacle(tmp_path):
    done = longrun(tmp_path, "synthesize", "output_dir=o", *SMALL, HOME=None, TMPDIR="/nowhere")
    assert done.returncode == 0, done.stderr


def test_the_current_folder_may_be_gone(tmp_path):
    code = (
        f"import os, shutil, sys; os.chdir({str(tmp_path)!r}); shutil.rmtree({str(tmp_path)!r});"
        "sys.argv = ['longrun', 'status']; from longrun.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "longrun: no such file or directory; name one that exists\n"


def test_a_bug_shows_its_traceback_and_where_to_report_it():
    code = (
        "import longrun.cli.main as command_line\n"
        "def app(): 1 / 0\n"
        "command_line.app = app\n"
        "command_line.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-2] == "ZeroDivisionError: division by zero"
    assert lines[-1].startswith("this is a bug of Longrun: report it to")


def test_a_terminal_gets_no_command_from_a_message(tmp_path):
    done = longrun(tmp_path, "pack", "documents=\x1b[31md", "output_dir=o")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_a_finished_run_on_a_read_only_disk_is_up_to_date(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        (tmp_path / "r.yaml").write_text(RECIPE)
        words = ["run", "r.yaml", f"output_dir={disk}/run"]
        assert longrun(tmp_path, *words).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        again = longrun(tmp_path, *words)
        assert again.returncode == 0, again.stderr
        assert "up to date" in again.stdout + again.stderr
        stage = longrun(tmp_path, "synthesize", f"{disk}/run/synthesize/config.yaml")
        assert "up to date" in stage.stderr
        refused = longrun(tmp_path, "synthesize", f"output_dir={disk}/new")
        assert refused.returncode == 2
        assert "read-only file system; name a place on a disk that can be written" in refused.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)
