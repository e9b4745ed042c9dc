"""Ledgers, spans, lengths and packs as the page shows them."""

import json
from pathlib import Path

import pytest

from longrun.errors import InputError
from longrun.report.sections.data import DataView, view_data
from longrun.report.stages import read_stages


def view(folders: list[Path]) -> DataView:
    found = view_data(read_stages(folders))
    assert found is not None
    return found


def test_a_ledger_adds_up_on_the_page(miniature: list[Path]) -> None:
    for ledger in view(miniature).ledgers:
        dropped = sum(entry.records for entry in ledger.dropped)
        assert ledger.records_in == ledger.kept.records + dropped
        shares = ledger.kept.share + sum(entry.share for entry in ledger.dropped)
        assert shares == pytest.approx(1)


def test_the_largest_loss_comes_first(miniature: list[Path]) -> None:
    reasons = [entry.label for entry in view(miniature).ledgers[0].dropped]
    assert reasons == ["pass_rate", "response too long"]


def test_a_reason_names_the_first_record_that_it_dropped(miniature: list[Path]) -> None:
    examples = [entry.example for entry in view(miniature).ledgers[0].dropped]
    assert examples == [str(miniature[0] / "train.jsonl:17"), None]


def test_every_ledger_says_what_it_counts(miniature: list[Path]) -> None:
    units = [(ledger.stage, ledger.unit) for ledger in view(miniature).ledgers]
    assert units[:2] == [("documents", "records"), ("packs", "documents")]


def test_empty_bins_at_both_ends_are_cut_off(miniature: list[Path]) -> None:
    cot = view(miniature).documents[0].histograms[0]
    assert cot.edges == [64, 91, 128, 181]
    assert cot.documents == sum(cot.counts) > 0


def test_every_epoch_of_every_pack_stage_is_a_row(miniature: list[Path]) -> None:
    rows = [(row.stage, row.epoch, row.fill) for row in view(miniature).packs]
    assert rows[:2] == [("packs", 1, 0.9981), ("packs", 2, 0.9979)]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("stats", "reason"),
    [
        ('{"lengths": {}}', "tokens_by_span"),
        ('{"lengths"', "is damaged"),
        (
            json.dumps({"lengths": {"cot": {"edges": [1], "counts": [1]}}, "tokens_by_span": {}}),
            r"lengths\.cot: 1 bins need ascending edges, one more",
        ),
    ],
)
def test_damaged_figures_are_named_by_file_and_field(
    miniature: list[Path], stats: str, reason: str
) -> None:
    (miniature[3] / "stats.json").write_text(stats)
    with pytest.raises(InputError, match=rf"documents/stats\.json: .*{reason}"):
        view(miniature)


def test_a_run_without_records_has_no_data_section(miniature: list[Path]) -> None:
    assert view_data(read_stages(miniature[:1])) is None
