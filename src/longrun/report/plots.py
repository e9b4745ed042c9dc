"""The plots of the page as inline SVG whose colours are the page's own.

matplotlib draws with marker colours, one per role; afterwards each is replaced by a CSS variable,
so that one drawing serves light, dark and print. matplotlib is imported when a plot is drawn.
Equal figures give equal bytes. Nothing here reads a file.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from longrun.formats.predictions import AtK
from longrun.formats.stages.progress import format_count
from longrun.report.sections.data import Histogram
from longrun.report.sections.evaluation import EvaluationView
from longrun.report.sections.training import Curve, Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#01011{index}" for index in range(8))
MOST_CURVES = len(SERIES)
"""Models of one plot by samples: each needs a colour of its own."""
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--rule)",
    **{color: f"var(--series-{index})" for index, color in enumerate(SERIES, 1)},
}
_POINTS_PER_INCH = 72
_FONT_POINTS = 10.0
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": _FONT_POINTS,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.labelsize": _FONT_POINTS,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.color": GRID,
    "ytick.labelcolor": FAINT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": _FONT_POINTS,
    "legend.handlelength": 1.4,
    "legend.labelcolor": FAINT,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
}


def plot_loss(round_: Round) -> Markup:
    """Draw the loss of every step, its moving average, and the validation points."""
    label = f"Loss by step of {round_.stage}"
    with _figure(f"loss-{round_.stage}", label, (470, 300)) as (figure, finish):
        axes = figure.add_subplot()
        _draw(axes, round_.loss, color=SERIES[0], linewidth=0.7, alpha=0.35, label="every step")
        _draw(axes, round_.smooth_loss, color=SERIES[0], label="moving average")
        if round_.validation.steps:
            _draw(
                axes,
                round_.validation,
                color=SERIES[1],
                linewidth=1.0,
                marker="o",
                markersize=4,
                label="validation",
            )
        _scale_loss(axes, round_.loss.values)
        axes.set_ylabel("loss")
        _steps_axis(axes)
        _legend_above(axes)
        return finish()


def plot_course(round_: Round) -> Markup:
    """Draw learning rate, gradient norm and speed by step, one below the other."""
    label = f"Learning rate, gradient norm and tokens per second by step of {round_.stage}"
    with _figure(f"course-{round_.stage}", label, (470, 300)) as (figure, finish):
        parts: Any = figure.subplots(3, 1, sharex=True)
        curves = (
            ("learning rate", round_.lr, SERIES[2]),
            ("gradient norm", round_.grad_norm, SERIES[0]),
            ("tokens/s", round_.speed, SERIES[3]),
        )
        for axes, (name, curve, color) in zip(parts, curves, strict=True):
            _draw(axes, curve, color=color, linewidth=1.2)
            axes.set_title(name, loc="left", fontsize=_FONT_POINTS, color=FAINT, pad=3)
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="y", nbins=3)
            axes.yaxis.set_major_formatter(lambda value, _: _short_number(value))
        _steps_axis(parts[-1])
        return finish()


def plot_lengths(name: str, histograms: Sequence[Histogram]) -> Markup:
    """Draw the documents of every mode by length in tokens."""
    label = f"Documents by length in tokens, {name}"
    with _figure(f"lengths-{name}", label, (470, 235)) as (figure, finish):
        axes = figure.add_subplot()
        for index, one in enumerate(histograms):
            color = SERIES[index % len(SERIES)]
            shown = f"{_fit(one.mode)} ({one.documents:,})"
            axes.stairs(one.counts, one.edges, fill=True, color=color, alpha=0.16)
            axes.stairs(one.counts, one.edges, color=color, linewidth=1.4, label=shown)
        _scale_lengths(axes, histograms)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens of a document")
        axes.set_ylabel("documents")
        axes.yaxis.set_major_formatter(lambda value, _: _short_number(value))
        _legend_above(axes)
        return finish()


def plot_accuracies(view: EvaluationView) -> list[Markup]:
    """Draw one plot per benchmark: a dot per model, its 95 % interval, and chance."""
    return [_plot_benchmark(view, index) for index in range(len(view.benchmarks))]


def plot_at_k(view: EvaluationView) -> list[Markup]:
    """Draw pass@k (solid) and majority@k (dashed) of every model, a plot per sampled benchmark."""
    return [_plot_curves(view, index) for index in view.sampled]


def _plot_curves(view: EvaluationView, index: int) -> Markup:
    label = f"pass@k and majority@k on {view.benchmarks[index].name} by samples k"
    curves = choose_curves(view.curves(index))
    rows = -(-len(curves) // 2)
    with _figure(f"at-k-{index}", label, (300, 205 + 17 * rows)) as (figure, finish):
        axes = figure.add_subplot()
        for (model, figures), color in zip(curves, SERIES, strict=False):
            ks = [one.k for one in figures]
            passed = [100 * one.pass_at_k for one in figures]
            voted = [100 * one.majority for one in figures]
            axes.plot(ks, passed, color=color, marker="o", markersize=3.5, label=_fit(model, 16))
            # Hollow and larger: it stays visible where both curves are the same.
            hollow: dict[str, Any] = {"marker": "o", "markersize": 7, "markerfacecolor": "none"}
            axes.plot(ks, voted, color=color, linestyle=(0, (3, 2)), **hollow)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("samples k")
        axes.set_ylim(-2, 102)
        figure.legend(loc="outside lower left", ncols=2, columnspacing=1.4)
        return finish()


def choose_curves(curves: list[tuple[str, list[AtK]]]) -> list[tuple[str, list[AtK]]]:
    """Return at most ``MOST_CURVES`` of the models, those of the highest pass@1, in their order."""
    best = sorted(curves, key=lambda curve: -curve[1][0].pass_at_k)[:MOST_CURVES]
    return [curve for curve in curves if curve in best]


def _plot_benchmark(view: EvaluationView, index: int) -> Markup:
    benchmark = view.benchmarks[index]
    rows = [(row.model, row.cells[index]) for row in reversed(view.models)]
    known = [(model, cell.figures) for model, cell in rows if cell is not None]
    label = f"Accuracy on {benchmark.name}, with 95 % intervals"
    size = (300, 40 + 24 * len(known))
    with _figure(f"accuracy-{index}", label, size) as (figure, finish):
        axes = figure.add_subplot()
        for place, (_, row) in enumerate(known):
            at, (low, high) = 100 * row.pass_at_1, (100 * row.interval[0], 100 * row.interval[1])
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=1.4, alpha=0.6)
            axes.plot([at], [place], color=SERIES[0], marker="o", markersize=5.5)
        if benchmark.chance is not None:
            for chance in sorted(set(benchmark.chance)):
                axes.axvline(100 * chance, color=SERIES[1], linewidth=1.2, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(known)), [_fit(model) for model, _ in known])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(-0.6, len(known) - 0.4)
        axes.set_xlim(-3, 103)
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        return finish()


@contextmanager
def _figure(
    name: str, label: str, size: tuple[float, float]
) -> "Iterator[tuple[Figure, Callable[[], Markup]]]":
    """Give an empty figure of ``size`` CSS pixels and the function that turns it into SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    prefix = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        inches = (size[0] / _POINTS_PER_INCH, size[1] / _POINTS_PER_INCH)
        figure = Figure(figsize=inches, layout="constrained")
        yield figure, lambda: _as_svg(figure, prefix, label)


def _as_svg(figure: "Figure", prefix: str, label: str) -> Markup:
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Markup(inline_svg(file.getvalue(), prefix, label))  # labels are escaped


def inline_svg(drawn: str, prefix: str, label: str) -> str:
    """Turn matplotlib's SVG document into an element that can share a page with others.

    Drops the prolog, fixed sizes, fonts and global styles, makes ids unique by ``prefix``, puts CSS
    variables in place of the marker colours, and rounds coordinates to a hundredth of a pixel.
    """
    view_box = re.search(r'viewBox="[^"]*"', drawn)
    assert view_box is not None
    body = drawn[drawn.index(">", view_box.end()) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.S)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    # Coordinates stand inside tags; the numbers between tags are labels and stay as they are.
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    return f'<svg class="plot" role="img" aria-label="{escape(label)}" {view_box[0]}>{body.strip()}'


def _draw(axes: "Axes", curve: Curve, **style: Any) -> None:
    axes.plot(curve.steps, curve.values, **style)


def _legend_above(axes: "Axes") -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=4, columnspacing=1.4)


def _scale_loss(axes: "Axes", losses: Sequence[float]) -> None:
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", size=0)
    elif min(losses) < 0.5 * max(losses):
        axes.set_ylim(bottom=min(0.0, *losses))


def _scale_lengths(axes: "Axes", histograms: Sequence[Histogram]) -> None:
    """Draw lengths that span more than two octaves on a logarithmic axis."""
    edges = sorted({edge for one in histograms for edge in one.edges})
    if edges[-1] > 4 * next(edge for edge in edges if edge > 0):
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.set_xlim(left=next(edge for edge in edges if edge > 0) / 1.2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", size=0)
    axes.xaxis.set_major_formatter(lambda value, _: _short_number(value))


def _steps_axis(axes: "Axes") -> None:
    axes.set_xlabel("step")
    axes.margins(x=0.01)
    axes.xaxis.set_major_formatter(lambda value, _: _short_number(value))


def _short_number(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.0e}".replace("e-0", "e-")
    return format_count(value)


def _fit(name: str, chars: int = 22) -> str:
    # A dollar sign would start matplotlib's mathematics.
    shown = name if len(name) <= chars else name[: chars - 1] + "\u2026"
    return shown.replace("$", r"\$")
