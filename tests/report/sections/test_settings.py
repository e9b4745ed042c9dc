"""Settings and origins of every stage."""

from pathlib import Path

from longrun.report.sections.settings import flatten, view_settings
from longrun.report.stages import read_stages


def test_nested_settings_have_dotted_names_and_plain_text() -> None:
    settings = {"optimizer": {"lr": 1e-3, "name": "muon"}, "clip": None, "filters": [], "empty": {}}
    assert dict(flatten(settings)) == {
        "optimizer.lr": "0.001",
        "optimizer.name": "muon",
        "clip": "null",
        "filters": "[]",
        "empty": "{}",
    }


def test_every_stage_names_what_it_read_and_made(miniature: list[Path]) -> None:
    views = view_settings(read_stages(miniature))
    packs = next(view for view in views if view.name == "packs")
    assert packs.inputs == [("documents", str(miniature[3]), "documents-0123456789abcdef")]
    assert (packs.files, packs.bytes, packs.folder) == (1, 1234, str(miniature[4]))
