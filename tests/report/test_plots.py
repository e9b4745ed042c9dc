"""Plots that share a page: unique ids, the page's colours, no text that is markup."""

import itertools
import re

from longrun.report.plots import inline_svg, plot_lengths
from longrun.report.sections.data import Histogram

LENGTHS = [Histogram("cot", [0, 10, 20], [3, 4]), Histogram("<b>$x$</b>", [10, 20, 40], [1, 2])]


def test_colours_are_those_of_the_page_and_nothing_is_global() -> None:
    drawn = plot_lengths("documents", LENGTHS)
    assert "var(--series-1)" in drawn
    assert "#0101" not in drawn
    assert "<style" not in drawn
    assert "font-family" not in drawn
    assert re.search(r'<svg[^>]*(width|height|xmlns)="', drawn) is None


def test_ids_of_two_plots_never_meet() -> None:
    one, two = (
        set(re.findall(r'\bid="([^"]*)"', plot_lengths(name, LENGTHS))) for name in ("a", "b")
    )
    assert one
    assert not one & two


def test_names_are_text_and_never_markup_or_formulas() -> None:
    drawn = plot_lengths('a"><script>', LENGTHS)
    assert "&lt;b&gt;$x$&lt;/b&gt;" in drawn
    assert "<script>" not in drawn


def test_the_same_figures_give_the_same_bytes() -> None:
    assert plot_lengths("a", LENGTHS) == plot_lengths("a", LENGTHS)


def test_bins_that_double_are_drawn_equally_wide() -> None:
    drawn = plot_lengths("a", [Histogram("cot", [16, 32, 64, 128], [1, 2, 3])])
    outline = max(re.findall(r'<path d="([^"]*)"', drawn), key=len)
    xs = sorted({float(x) for x in re.findall(r"[ML] ([\d.]+) ", outline)})
    gaps = [right - left for left, right in itertools.pairwise(xs)]
    assert max(gaps) - min(gaps) < 0.1


def test_small_labels_keep_their_digits_while_coordinates_are_rounded() -> None:
    drawn = '<svg viewBox="0 0 1 1"><text x="1.23456">0.002</text></svg>'
    assert inline_svg(drawn, "a", "a").endswith('<text x="1.23">0.002</text></svg>')
