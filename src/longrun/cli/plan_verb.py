"""The verb ``plan``: which layout trains a model fastest, before anything is queued."""

import json
from pathlib import Path
from typing import Annotated

import typer

from longrun.cli.show import make_console
from longrun.cli.stage_verbs import Arguments, explain_settings
from longrun.config.commands import read_values
from longrun.config.plain_yaml import dump_yaml
from longrun.errors import ConfigError
from longrun.formats.stages.atomic import write_text
from longrun.plan.settings import PlanSettings

Best = Annotated[int, typer.Option("--best", min=1, help="Rows to show.")]
Every = Annotated[bool, typer.Option("--all", help="Show all layouts and why others cannot be.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Write = Annotated[
    Path | None, typer.Option("--write", help="Write the best layout as settings of train (YAML).")
]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("plan", help=explain_settings(PlanSettings), rich_help_panel=None)(_plan)


def _plan(
    settings: Arguments = None,
    best: Best = 8,
    every: Every = False,
    as_json: AsJson = False,
    write: Write = None,
) -> None:
    config = PlanSettings.parse(read_values(settings or []), "plan")
    # numpy and the dealing are imported when the verb runs.
    from longrun.plan.answer import as_document, print_answer, train_settings
    from longrun.plan.lengths import find_workload
    from longrun.plan.models import find_model
    from longrun.plan.search import Planner

    planner = Planner(find_model(config.model), find_workload(config), config)
    plan = planner.plan(None if every else best)
    if as_json:
        print(json.dumps(as_document(planner, plan), indent=2))
    else:
        print_answer(make_console(), planner, plan, every=every)
    if not plan.ranked:
        raise ConfigError(
            f"plan: none of {len(plan.rejected)} layouts fits {planner.num_ranks} GPUs; see --all"
            " for the reasons, and allow more GPUs, more recomputation or a smaller pack_size"
        )
    if write is not None:
        text = dump_yaml(train_settings(planner, plan.ranked[0]))
        write_text(write, text)
