import json
import logging

import pytest

from longrun.formats.stages.progress import PROGRESS_VARIABLE, Progress, show_progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_carries_rate_and_time_left(clock):
    progress = Progress(label="pack", total=100, unit="packs", bars=None, file=None)
    clock[0] = 6.0
    progress.advance(10)
    clock[0] = 8.0
    progress.advance(10)
    # The first ten took a start of five seconds; what is left goes at the speed of the second ten.
    assert progress.line() == "pack: 20/100 packs (20 %), 2.5 packs/s, 16 s left"


def test_the_first_report_does_not_foretell(clock):
    progress = Progress(label="generate", total=900, unit="solutions", bars=None, file=None)
    clock[0] = 20.0
    progress.advance()
    assert progress.line() == "generate: 1/900 solutions (0 %), 0.05 solutions/s, ? left"


def test_what_an_earlier_run_did_makes_nothing_faster(clock):
    progress = Progress(label="pack", total=100, unit="packs", bars=None, file=None)
    progress.skip(80)
    for clock[0] in (1.0, 2.0):
        progress.advance(5)
    progress.skip(5)
    assert progress.line() == "pack: 95/100 packs (95 %), 5 packs/s, 1 s left"


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
