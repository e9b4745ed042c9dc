"""Curves and figures of training rounds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.report.sections.training import Round, smooth, thin, view_training
from longrun.report.stages import read_stages


def rounds(folders: list[Path]) -> list[Round]:
    view = view_training(read_stages(folders))
    assert view is not None
    return view.rounds


def write_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def step(number: int, loss: float, **more: float) -> dict[str, Any]:
    return {"step": number, "loss": loss, "tokens": 10, "supervised_tokens": 4, **more}


def test_a_round_is_summed_up(miniature: list[Path]) -> None:
    lines: list[dict[str, Any]] = [
        step(1, 4.0, tokens_per_second=1.0),
        {"step": 1, "validation_loss": 3.0, "validation_loss_by_mode": {"cot": 3.0, "tir": None}},
        step(2, 2.0, tokens_per_second=9.0, epoch=0.5, seconds=1.5),
        step(3, 1.0, tokens_per_second=5.0, epoch=0.75, seconds=1.0),
        {"step": 3, "validation_loss": 3.5, "validation_loss_by_mode": {"cot": 3.5}},
    ]
    write_metrics(miniature[5], lines)
    one = rounds(miniature)[0]
    assert (one.steps, one.tokens, one.supervised_share) == (3, 30, 0.4)
    assert (one.first_loss, one.last_loss, one.epochs) == (4.0, 1.0, 0.75)
    assert (one.best_validation, one.best_validation_step, one.last_validation) == (3.0, 1, 3.5)
    assert one.validation_by_mode == {"cot": 3.5}
    assert (one.tokens_per_second, one.train_seconds) == (5.0, 2.5)
    assert one.token_flops is None


def test_a_step_that_was_repeated_counts_once(miniature: list[Path]) -> None:
    write_metrics(miniature[5], [step(1, 4.0), step(2, 9.0), step(2, 2.0)])
    one = rounds(miniature)[0]
    assert (one.steps, one.loss.values) == (2, [4.0, 2.0])


def test_skipped_steps_are_counted_and_left_out_of_everything_else(miniature: list[Path]) -> None:
    lines: list[dict[str, Any]] = [
        step(1, 4.0, seconds=1.0, data_wait_share=0.5, mfu=0.4, peak_memory_bytes=7),
        {"step": 2, "loss": None, "grad_norm": None, "tokens": 99, "skipped": "step 2: loss nan"},
        {"step": 3, "loss": 99.0, "tokens": 99, "skipped": "step 3: loss 99 is above"},
        step(4, 2.0, seconds=3.0, data_wait_share=0.1, mfu=0.2, peak_memory_bytes=9),
    ]
    write_metrics(miniature[5], lines)
    one = rounds(miniature)[0]
    assert (one.steps, one.skipped_steps, one.tokens, one.loss.values) == (2, 2, 20, [4.0, 2.0])
    assert (one.mfu, one.wait_share, one.peak_memory_bytes) == (pytest.approx(0.3), 0.2, 9)


def test_a_damaged_line_is_named(miniature: list[Path]) -> None:
    path = miniature[5] / "metrics.jsonl"
    path.write_text(json.dumps(step(1, 2.0)) + "\n" + '{"step": "two"}\n')
    with pytest.raises(InputError, match=r"round-1/metrics\.jsonl:2: is damaged: .*step"):
        rounds(miniature)


def test_metrics_without_a_step_are_refused(miniature: list[Path]) -> None:
    write_metrics(miniature[5], [])
    with pytest.raises(InputError, match="holds no step"):
        rounds(miniature)


def test_work_per_token_is_known_while_the_documents_are_there(
    miniature: list[Path], packed: Callable[[Path, Path, list[int]], None]
) -> None:
    packed(miniature[3], miniature[4], [100, 300])
    one = rounds(miniature)[0]
    linear = 6 * (3 * (128 * 128 * 2 + 2 * 128 * 64 + 3 * 128 * 384) + 1024 * 128)
    attention = 6 * 3 * 128 * (100**2 + 300**2) / 400
    assert one.token_flops == pytest.approx(linear + attention)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=200), st.integers(1, 20))
def test_smoothing_stays_within_the_values_and_keeps_both_ends(
    values: list[float], reach: int
) -> None:
    means = smooth(values, reach)
    assert len(means) == len(values)
    assert min(values) - 1e-9 <= min(means)
    assert max(means) <= max(values) + 1e-9
    assert (means[0], means[-1]) == (pytest.approx(values[0]), pytest.approx(values[-1]))


def test_smoothing_does_not_lag_behind_a_straight_line() -> None:
    line = [float(value) for value in range(50)]
    assert smooth(line, 7) == pytest.approx(line)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300), st.sampled_from([4, 10, 64]))
def test_thinning_keeps_the_peaks_and_the_order(values: list[float], most: int) -> None:
    curve = thin(range(len(values)), values, most)
    assert len(curve.steps) <= max(most, 1)
    assert curve.steps == sorted(set(curve.steps))
    assert {min(values), max(values)} <= set(curve.values)
    assert all(values[at] == value for at, value in zip(curve.steps, curve.values, strict=True))


def test_smoothing_takes_the_mean_of_the_neighbours() -> None:
    assert smooth([6.0, 0.0, 3.0, 3.0], 1) == [6.0, 3.0, 2.0, 3.0]
