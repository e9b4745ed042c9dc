import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from pydantic import PositiveInt

from longrun.config.settings import StageConfig, execution, source
from longrun.errors import InputError, LaunchError, StaleError
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import differences, is_locked, open_stage


class CopyConfig(StageConfig):
    """Copies a file ``times`` times."""

    source_file: Path = source()
    times: PositiveInt = 2
    speed: int = execution(1)


def config(folder: Path, **values) -> CopyConfig:
    given = {"output_dir": folder / "out", "source_file": folder / "in.txt", **values}
    return CopyConfig.parse(given, "copy")


def copy(settings: CopyConfig, fail_after: int | None = None) -> tuple[Manifest, int]:
    """Run the stage; return its manifest and how many parts were written by this call."""
    written = 0
    with open_stage("copy", settings) as stage:
        if stage.finished is not None:
            return stage.finished, 0
        for part in range(settings.times):
            path = stage.folder / f"{part}.txt"
            if path.exists():
                continue
            if written == fail_after:
                raise KeyboardInterrupt
            write_text(path, settings.source_file.read_text())
            written += 1
        ledger = Ledger(records_in=1, kept=1)
        return stage.finish(counts={"parts": settings.times}, ledger=ledger), written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text("text")
    return tmp_path


def test_a_finished_stage_does_nothing_when_run_again(folder):
    first, written = copy(config(folder))
    assert written == 2
    assert copy(config(folder)) == (first, 0)


def test_speed_settings_do_not_make_output_stale(folder):
    first, _ = copy(config(folder))
    assert copy(config(folder, speed=7)) == (first, 0)


def test_an_interrupted_stage_continues_from_its_complete_parts(folder):
    with pytest.raises(KeyboardInterrupt):
        copy(config(folder), fail_after=1)
    manifest, written = copy(config(folder))
    assert written == 1
    assert manifest.outputs == {"0.txt": 4, "1.txt": 4}
    assert not (folder / "out/started.json").exists()


def test_a_changed_setting_is_named_and_nothing_is_mixed(folder):
    copy(config(folder))
    with pytest.raises(StaleError, match=r"copy\.times 2 -> 3"):
        copy(config(folder, times=3))
    assert sorted(path.name for path in (folder / "out").glob("*.txt")) == ["0.txt", "1.txt"]


def test_a_changed_setting_is_refused_while_interrupted_too(folder):
    with pytest.raises(KeyboardInterrupt):
        copy(config(folder), fail_after=1)
    with pytest.raises(StaleError, match=r"copy\.times 2 -> 3"):
        copy(config(folder, times=3))


def test_a_stage_that_stopped_before_it_made_anything_is_not_in_the_way(folder):
    with pytest.raises(KeyboardInterrupt):
        copy(config(folder), fail_after=0)
    assert copy(config(folder, times=3))[1] == 3


def test_a_changed_input_is_named(folder):
    copy(config(folder))
    (folder / "in.txt").write_text("other")
    with pytest.raises(StaleError, match=r"input source_file changed \(.*in\.txt\)"):
        copy(config(folder))


def test_another_version_of_the_program_leaves_output_as_it_is(folder, monkeypatch):
    first, _ = copy(config(folder))
    monkeypatch.setattr("longrun.__version__", "9.9.9")
    assert copy(config(folder)) == (first, 0)
    assert first.version != "9.9.9"


def test_an_interrupted_stage_continues_under_another_version(folder, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        copy(config(folder), fail_after=1)
    monkeypatch.setattr("longrun.__version__", "9.9.9")
    manifest, written = copy(config(folder))
    assert (manifest.version, written) == ("9.9.9", 1)


def test_a_raised_revision_makes_output_stale(folder, monkeypatch):
    copy(config(folder))
    monkeypatch.setattr(CopyConfig, "output_revision", 2)
    with pytest.raises(StaleError, match="output revision 1 -> 2"):
        copy(config(folder))


def test_moving_the_input_changes_nothing(folder):
    first, _ = copy(config(folder))
    (folder / "in.txt").rename(folder / "moved.txt")
    assert copy(config(folder, source_file=folder / "moved.txt")) == (first, 0)


def test_a_folder_of_other_files_is_never_written_to(folder):
    (folder / "out").mkdir()
    (folder / "out/thesis.doc").write_text("precious")
    with pytest.raises(StaleError, match=r"thesis\.doc"):
        copy(config(folder))


def test_an_output_that_is_a_file_is_refused(folder):
    (folder / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        copy(config(folder))


def test_a_missing_input_is_named(folder):
    (folder / "in.txt").unlink()
    with pytest.raises(InputError, match=r"in\.txt: does not exist; correct source_file or"):
        copy(config(folder))


def test_two_processes_cannot_work_in_one_folder(folder):
    with (
        open_stage("copy", config(folder)),
        pytest.raises(LaunchError, match="another process"),
        open_stage("copy", config(folder)),
    ):
        pass


def test_looking_at_a_stage_never_keeps_it_from_starting(folder):
    (folder / "out").mkdir()
    with open(folder / "out/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as is_locked does, for longer than it does
        release = threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        assert copy(config(folder))[1] == 2
        release.join()
    assert not is_locked(folder / "out")


def test_a_damaged_manifest_is_named(folder):
    copy(config(folder))
    (folder / "out/manifest.json").write_text("{")
    with pytest.raises(StaleError, match=r"manifest\.json is damaged"):
        copy(config(folder))


def test_a_ledger_that_does_not_add_up_stops_the_stage(folder):
    with (
        open_stage("copy", config(folder)) as stage,
        pytest.raises(AssertionError, match="does not add up"),
    ):
        stage.finish(counts={}, ledger=Ledger(records_in=2, kept=1))
    assert not (folder / "out/manifest.json").exists()


def test_an_output_walks_back_to_its_sources(folder):
    manifest, _ = copy(config(folder))
    assert list(manifest.inputs["source_file"]) == [str(folder / "in.txt")]


def test_differences_name_nested_settings():
    old = {"a": {"b": 1, "c": 2}, "d": [1]}
    new = {"a": {"b": 1, "c": 3}, "d": [1, 2]}
    assert differences(old, new, "x") == ["x.a.c 2 -> 3", "x.d [1] -> [1, 2]"]


KILLED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_stage import config
    from longrun.formats.stages.atomic import atomic_file
    from longrun.formats.stages.stage import open_stage
    with open_stage("copy", config(Path({folder!r}), times=400)) as stage:
        if stage.finished is None:
            for part in range(400):
                path = stage.folder / f"{{part}}.txt"
                if not path.exists():
                    with atomic_file(path) as file:
                        for byte in range(20):
                            file.write(b"%d," % byte)
                            file.flush()
            stage.finish(counts={{}})
"""


def test_a_stage_killed_at_random_instants_ends_with_the_bytes_of_an_uninterrupted_one(folder):
    code = textwrap.dedent(KILLED.format(tests=str(Path(__file__).parent), folder=str(folder)))
    command = [sys.executable, "-c", code]
    for seconds in (0.5, 0.62, 0.75):
        process = subprocess.Popen(command)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    files = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    expected = b"".join(b"%d," % byte for byte in range(20))
    parts = {name: content for name, content in files.items() if name.endswith(".txt")}
    assert parts == {f"{part}.txt": expected for part in range(400)}
    assert set(files) - set(parts) == {"manifest.json", "config.yaml", ".lock"}
    assert len(json.loads(files["manifest.json"])["outputs"]) == 400


KILLED_AT_EVERY_CHANGE = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_stage import config, copy

    def die_at(wanted, after):
        count = 0
        def watched(change):
            def watch(*given, **named):
                nonlocal count
                count += 1
                if count == wanted and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return change(*given, **named)
                finally:
                    if count == wanted:
                        os.kill(os.getpid(), signal.SIGKILL)
            return watch
        for name in ("mkdir", "replace", "unlink", "rmdir"):
            setattr(os, name, watched(getattr(os, name)))

    for wanted in range(1, 100):
        for after in (False, True):
            folder = Path({folder!r}, f"{{wanted}}-{{after}}")
            folder.mkdir()
            (folder / "in.txt").write_text("text")
            child = os.fork()
            if child == 0:
                die_at(wanted, after)
                copy(config(folder))
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                sys.exit()
            copy(config(folder))
"""


def test_a_stage_killed_before_or_after_any_change_of_its_folder_ends_as_if_it_was_not(folder):
    code = textwrap.dedent(
        KILLED_AT_EVERY_CHANGE.format(tests=str(Path(__file__).parent), folder=str(folder))
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    *killed, undisturbed = sorted(folder.glob("*-*"), key=lambda path: path.stat().st_mtime_ns)
    assert len(killed) > 10
    for run in killed:
        files = {path.name: path.read_bytes() for path in (run / "out").iterdir()}
        manifest = json.loads(files.pop("manifest.json"))
        assert manifest["outputs"] == {"0.txt": 4, "1.txt": 4}
        assert sorted(files) == [".lock", "0.txt", "1.txt", "config.yaml"], run.name
        assert (files["0.txt"], files["1.txt"]) == (b"text", b"text")
    assert (undisturbed / "out/manifest.json").exists()


def test_the_lock_goes_with_its_process(folder):
    code = textwrap.dedent(
        f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_stage import config
        from longrun.formats.stages.stage import open_stage
        with open_stage("copy", config(Path({str(folder)!r}))):
            os.kill(os.getpid(), {signal.SIGKILL:d})
        """
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert copy(config(folder))[1] == 2
    assert os.listdir(folder / "out")


def test_a_stage_may_wait_for_an_earlier_attempt_that_lives_on(folder, monkeypatch):
    monkeypatch.setenv("LONGRUN_LOCK_SECONDS", "30")
    (folder / "out").mkdir()
    with open(folder / "out/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release = threading.Timer(1.5, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        release.start()
        assert copy(config(folder))[1] == 2
        release.join()
