import json
import logging

from longrun.formats.progress import PROGRESS_VARIABLE, Progress, show_progress


def test_a_line_carries_rate_and_time_left(monkeypatch):
    progress = Progress(label="pack", total=100, unit="packs", bars=None, file=None, done=20)
    progress.resumed, progress.began = 10, 0.0
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    assert progress.line() == "pack: 20/100 packs (20 %), 2 packs/s, 40 s left"


def test_plain_logs_get_a_last_line(caplog):
    with caplog.at_level(logging.INFO), show_progress("pack", 2, "packs") as progress:
        progress.advance(2, note="loss 0.5")
    assert "pack: 2/2 packs (100 %)" in caplog.text
    assert "loss 0.5" in caplog.text


def test_progress_is_kept_in_a_file_for_others(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "progress.json"))
    with show_progress("train", 10, "steps", done=4) as progress:
        progress.advance(1)
    state = json.loads((tmp_path / "progress.json").read_text())
    assert (state["done"], state["total"], state["unit"]) == (5, 10, "steps")
