"""The report stage: finished stages in, one page and its figures out.

``report.html`` is for people, ``report.json`` holds the same figures for programs, without the
sample solutions, which are in the grades. A part of the pipeline that did not run is left out and
the page says so.
"""

from dataclasses import asdict
from typing import Any

import msgspec

from longrun.config.stages import ReportConfig
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import open_stage
from longrun.report.page import PageView, render_page
from longrun.report.sections.contamination import view_contamination
from longrun.report.sections.data import view_data
from longrun.report.sections.evaluation import view_evaluation
from longrun.report.sections.overview import view_overview
from longrun.report.sections.pipeline import draw_pipeline
from longrun.report.sections.samples import view_samples
from longrun.report.sections.settings import view_settings
from longrun.report.sections.training import view_training
from longrun.report.stages import Graph, read_stages


def run(config: ReportConfig) -> Manifest:
    """Write the page about ``config.stages`` into ``config.output_dir``.

    Raises:
        InputError: a stage has not finished, or a file in its folder is missing or damaged.
    """
    # Before the output folder is touched: a run that is not finished leaves nothing behind.
    graph = read_stages(config.inputs().get("stages", []))
    with open_stage("report", config) as stage:
        if stage.finished is not None:
            return stage.finished
        view = view_page(config.title, graph)
        write_text(stage.folder / "report.html", render_page(view))
        write_text(stage.folder / "report.json", _as_json(view))
        samples = view.samples.groups if view.samples else []
        return stage.finish(
            counts={
                "stages": len(graph.stages),
                "samples": sum(len(group.samples) for group in samples),
            }
        )


def view_page(title: str, graph: Graph) -> PageView:
    """Return everything that the page about ``graph`` shows."""
    training = view_training(graph)
    return PageView(
        overview=view_overview(title, graph, training),
        pipeline=draw_pipeline(graph),
        data=view_data(graph),
        training=training,
        evaluation=view_evaluation(graph),
        contamination=view_contamination(graph),
        samples=view_samples(graph),
        stages=view_settings(graph),
    )


def _as_json(view: PageView) -> str:
    figures: dict[str, Any] = {
        "overview": asdict(view.overview),
        "stages": view.stages,
        "data": view.data,
        "training": view.training,
        "evaluation": view.evaluation,
        "contamination": {one.stage: one.figures for one in view.contamination},
    }
    return msgspec.json.format(msgspec.json.encode(figures), indent=2).decode() + "\n"
