"""The page: one HTML file from view data, with style and script inside.

Works from a file, without network: a content security policy forbids every load. Text is escaped by
the template engine, always; only our own plots and formulas that we rebuilt from known elements are
inserted as they are. It never reads a stage.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from longrun.formats.stages.progress import format_count, format_seconds
from longrun.report import plots
from longrun.report.mathematics import show_answer, show_mathematics
from longrun.report.sections.contamination import ContaminationView
from longrun.report.sections.data import DataView
from longrun.report.sections.evaluation import EvaluationView
from longrun.report.sections.overview import Overview
from longrun.report.sections.pipeline import BOX_HEIGHT, BOX_WIDTH, Picture
from longrun.report.sections.samples import SamplesView
from longrun.report.sections.settings import StageView
from longrun.report.sections.training import TrainingView

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageView:
    """Everything that the page shows; None: the run has no such part."""

    overview: Overview
    pipeline: Picture
    data: DataView | None
    training: TrainingView | None
    evaluation: EvaluationView | None
    contamination: list[ContaminationView]
    samples: SamplesView | None
    stages: list[StageView]


def render_page(view: PageView) -> str:
    """Return the page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": format_count,
        "seconds": format_seconds,
        "percent": _percent,
        "number": _number,
        "file_size": _size,
        "mathematics": show_mathematics,
        "answer": show_answer,
    }
    script = (_FOLDER / "filter.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        view=view,
        plots=_plots(view),
        most_curves=plots.MOST_CURVES,
        box={"width": BOX_WIDTH, "height": BOX_HEIGHT},
        style=Markup((_FOLDER / "style.css").read_text()),  # our own file
        script=Markup(script),  # our own file
        script_digest=digest,
    )


def _plots(view: PageView) -> dict[str, Any]:
    rounds = view.training.rounds if view.training else []
    documents = view.data.documents if view.data else []
    return {
        "loss": {one.stage: plots.plot_loss(one) for one in rounds},
        "course": {one.stage: plots.plot_course(one) for one in rounds},
        "lengths": {
            one.stage: plots.plot_lengths(one.stage, one.histograms)
            for one in documents
            if one.histograms
        },
        "accuracies": plots.plot_accuracies(view.evaluation) if view.evaluation else [],
        "at_k": plots.plot_at_k(view.evaluation) if view.evaluation else [],
    }


def _percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}"


def _number(value: float, figures: int = 4) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.{figures}g}"


def _size(size: float) -> str:
    for bound, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= bound:
            return f"{size / bound:.1f} {unit}"
    return f"{size:.0f} B"
