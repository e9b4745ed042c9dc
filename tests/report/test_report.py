"""The whole stage: one page about a miniature run that works without network or trust."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from longrun.config.stages import ReportConfig
from longrun.errors import InputError
from longrun.report.report import run

VOID = {"meta", "link", "img", "br", "input"}
HOSTILE_TAGS = {"img", "iframe", "object", "embed", "base"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in {"option"} and self.open[-1] != tag:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        self.text.append(data)


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


def report(folders: Sequence[Path], into: Path, title: str = "A run") -> str:
    run(ReportConfig(output_dir=into, stages=list(folders), title=title))
    return (into / "report.html").read_text()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The report of one miniature run, for the tests that only read it."""
    root = tmp_path_factory.mktemp("report")
    write_run: Callable[[Path], list[Path]] = request.getfixturevalue("run_writer")
    report(write_run(root / "run"), root / "page", "Sums & products")
    return root / "page"


def test_the_page_has_every_section_and_the_figures_of_the_run(shared: Path) -> None:
    page = (shared / "report.html").read_text()
    for section in ("pipeline", "data", "training", "evaluation", "samples", "settings"):
        assert f'<section id="{section}">' in page
    assert "class=missing" not in page
    assert 'class="missing"' not in page
    text = " ".join(" ".join(outline(page).text).split())
    assert "Sums & products" in text
    assert "steps in 2 rounds" in text
    assert "dropped: response too long" in text
    assert "chance" in text
    assert "optimizer.lr" in text
    assert "0.003" in text


def test_the_page_loads_nothing_and_runs_only_its_own_script(shared: Path) -> None:
    page = (shared / "report.html").read_text()
    parsed = outline(page)
    assert not HOSTILE_TAGS & set(parsed.tags)
    assert "http:" not in page
    assert "https:" not in page
    for _, name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href", "action", "data"}:
            assert value is not None
            assert value.startswith(("#", "data:,"))
    digest = base64.b64encode(hashlib.sha256("".join(parsed.scripts).encode()).digest()).decode()
    policy = next(
        value for _, name, value in parsed.attributes if name == "content" and "src" in str(value)
    )
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert parsed.tags.count("script") == 1


def test_what_a_model_wrote_is_text_and_never_markup(shared: Path, hostile: str) -> None:
    page = (shared / "report.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert hostile in "".join(outline(page).text)


def test_ids_are_unique_and_every_reference_has_its_target(shared: Path) -> None:
    page = (shared / "report.html").read_text()
    parsed = outline(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert used <= set(parsed.ids)


def test_the_figures_are_also_json(shared: Path) -> None:
    figures: dict[str, Any] = json.loads((shared / "report.json").read_text())
    assert figures["overview"]["title"] == "Sums & products"
    assert [one["stage"] for one in figures["training"]["rounds"]] == ["round-1", "round-2"]
    assert figures["training"]["rounds"][0]["steps"] == 40
    assert figures["evaluation"]["benchmarks"][2]["chance"] == [0.42, 0.42]
    assert figures["data"]["packs"][0]["fill"] == 0.9981


def test_the_same_run_gives_the_same_bytes(miniature: list[Path], tmp_path: Path) -> None:
    assert report(miniature, tmp_path / "one") == report(miniature, tmp_path / "two")
    one, two = (tmp_path / name / "report.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_finished_report_is_left_alone(miniature: list[Path], tmp_path: Path) -> None:
    report(miniature, tmp_path / "page")
    before = (tmp_path / "page" / "report.html").stat().st_mtime_ns
    report(miniature, tmp_path / "page")
    assert (tmp_path / "page" / "report.html").stat().st_mtime_ns == before


def test_a_run_without_training_and_evaluation_says_so(
    miniature: list[Path], tmp_path: Path
) -> None:
    page = report(miniature[:2], tmp_path / "page")
    assert page.count('class="missing"') == 4
    assert "This run trained no model." in page
    assert "This run evaluated no model." in page
    outline(page)


def test_an_unknown_verb_is_a_box_and_its_settings(
    writer: Callable[..., Any], tmp_path: Path
) -> None:
    folder = writer().stage("mystery", "ponder", {}, {"thoughts": 3})
    page = report([folder], tmp_path / "page")
    assert "ponder" in page
    assert "3 thoughts" in page


def test_an_unfinished_stage_is_named_and_nothing_is_written(
    miniature: list[Path], tmp_path: Path
) -> None:
    (miniature[5] / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"run/round-1: has no manifest\.json"):
        report(miniature, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.stages: no folder matches"):
        report([tmp_path / "none*"], tmp_path / "page")


def test_a_page_with_long_solutions_stays_below_three_megabytes(
    miniature: list[Path], tmp_path: Path
) -> None:
    for path in miniature[-1].rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["pieces"] = [["THINKING", "\"<&>'" * 40_000]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report(miniature, tmp_path / "page")
    assert len(page.encode()) < 3_000_000
    assert "characters are not shown" in page


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = (
        "import sys, longrun.report.report, longrun.report.tables;"
        "print([name for name in ('matplotlib', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
