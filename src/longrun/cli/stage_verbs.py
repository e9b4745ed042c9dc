"""One verb per stage: ``longrun pack documents=runs/x/prepare output_dir=runs/x/pack``.

A verb runs in this process. With ``--cluster``, ``--expname``, ``--run_after`` or ``--log_dir`` it
is an experiment with a name and logs, like a recipe of its own.
"""

import importlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace as replace_fields
from typing import Annotated, Any

import typer
from pydantic_core import PydanticUndefined

from longrun.cli.options import (
    ConfigDir,
    DryRun,
    LogDir,
    Partition,
    RunAfter,
    TimeLimit,
    choose_cluster,
    names_in,
)
from longrun.cli.run_verbs import Replace, run_stages
from longrun.config.commands import Place, Wanted, build_recipe, read_words
from longrun.config.nemo_skills.verbs import EVAL_VERB, explain_options
from longrun.config.plain_yaml import dump_yaml
from longrun.config.recipe import RUNS, StagePlan
from longrun.config.settings import Settings
from longrun.config.stages import STAGES
from longrun.errors import ConfigError
from longrun.launch.graph import Launch
from longrun.launch.run_folder import clear_stale
from longrun.launch.stage_jobs import idle_options
from longrun.launch.verbs import choose_log_dir

log = logging.getLogger(__name__)

MODULES = {
    "synthesize": "longrun.data.synthetic.synthesize",
    "train_tokenizer": "longrun.data.synthetic.train_tokenizer",
    "init_model": "longrun.checkpoint.init_model",
    "fetch": "longrun.data.records.fetch",
    "prepare": "longrun.data.documents.prepare",
    "merge": "longrun.data.documents.merge",
    "check_contamination": "longrun.data.documents.check_contamination",
    "pack": "longrun.data.packs.pack",
    "convert_packs": "longrun.data.packs.convert_packs",
    "convert": "longrun.checkpoint.convert_model",
    "verify": "longrun.training.verify",
    "train": "longrun.training.train",
    "average": "longrun.checkpoint.average",
    "generate": "longrun.evaluation.generation.generate",
    "group_candidates": "longrun.evaluation.scores.group_candidates",
    "evaluate": "longrun.evaluation.scores.evaluate",
    "report": "longrun.report.report",
}
"""Verb -> module whose ``run(config)`` is the stage; imported when the verb runs."""

_EVAL_HELP = (
    "Generate solutions and evaluate them, by the options of NeMo-Skills. Settings are those of"
    " `generate`, and those of `evaluate` as evaluate.NAME=value.\n\n\b"
)
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml] [name=value ...]", help="Settings; see above."),
]
_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add a verb for every stage to ``app``."""
    for verb, config in STAGES.items():
        text = "\n".join([explain_settings(config), *_explain_reference(verb)])
        app.command(verb, help=text, context_settings=_WORDS)(_command(verb))
    text = "\n".join([_EVAL_HELP, *_explain_reference(EVAL_VERB)])
    app.command(EVAL_VERB, help=text, context_settings=_WORDS)(_command(EVAL_VERB))


def _command(verb: str) -> Any:
    def command(  # noqa: PLR0913, PLR0917 - one argument per option
        context: typer.Context,
        settings: Arguments = None,
        cluster: Annotated[
            str | None,
            typer.Option(help="Run as a job there: a cluster file, by name or path."),
        ] = None,
        config_dir: ConfigDir = None,
        expname: Annotated[
            str | None, typer.Option(help="Name to find it by; null: the verb.")
        ] = None,
        run_after: RunAfter = None,
        log_dir: LogDir = None,
        partition: Partition = None,
        time_limit: TimeLimit = None,
        num_training_jobs: Annotated[
            int,
            typer.Option(
                "--num_training_jobs", min=0, help="Jobs in a chain; 0: average only (train)."
            ),
        ] = 1,
        dry_run: DryRun = False,
        replace: Replace = False,
    ) -> None:
        if verb != "train":
            _refuse_idle({"num_training_jobs": num_training_jobs != 1}, f"on {verb}")
        wanted = read_words(verb, [*(settings or []), *context.args])
        for note in wanted.notes:
            log.info("%s: %s", verb, note)
        place = Place(
            expname=expname,
            partition=partition,
            time_limit=time_limit,
            train=num_training_jobs > 0,
        )
        if not (cluster or expname or run_after or log_dir):
            idle: dict[str, object] = {
                "config_dir": config_dir,
                "partition": partition,
            }
            idle |= {"time_limit": time_limit, "num_training_jobs": num_training_jobs > 1}
            _refuse_idle(idle, "without --cluster or --expname")
            _run_here(wanted, place, dry_run=dry_run, replace=replace)
            return
        chosen = choose_cluster(cluster, config_dir)
        place = replace_fields(place, on_cluster=chosen.executor == "slurm")
        launch = Launch(
            cluster=chosen,
            run_after=names_in(run_after),
            num_training_jobs=max(1, num_training_jobs),
            replace=replace,
            log_dir=choose_log_dir(wanted, log_dir),
        )
        for note in idle_options(chosen, {"partition": partition, "time_limit": time_limit}):
            log.info("%s: %s", verb, note)
        recipe = build_recipe(wanted, place, chosen.job_dir)
        run_stages(recipe, list(recipe.stages), launch, dry_run=dry_run)

    return command


def _refuse_idle(options: Mapping[str, object], where: str) -> None:
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name} has no effect {where}; leave it out")


def _run_here(wanted: Wanted, place: Place, *, dry_run: bool, replace: bool) -> None:
    """Run what is wanted in this process, one stage after the other."""
    verb = wanted.verb
    if wanted.by_reference or verb not in STAGES:
        stages = build_recipe(wanted, place, RUNS).stages
    else:
        stages = (StagePlan(verb, verb, STAGES[verb].parse(wanted.settings, verb), ()),)
    for stage in stages:
        if dry_run:
            heading = f"# {stage.name}\n" if len(stages) > 1 else ""
            settings = stage.config.model_dump(mode="json")
            print(heading + dump_yaml(settings), end="")
            continue
        if replace:
            clear_stale(stage)
        importlib.import_module(MODULES[stage.verb]).run(stage.config.located())


def explain_settings(config: type[Settings]) -> str:
    """Return the help of a verb: what it does and every setting with default and meaning."""
    heading = [(config.__doc__ or "").strip(), "", "\b", "Settings:"]
    return "\n".join([*heading, *_describe(config, "")])


def _explain_reference(verb: str) -> list[str]:
    """Return the part of a verb's help about the options of NeMo-Skills; nothing: it takes none."""
    lines = explain_options(verb)
    heading = "Options of NeMo-Skills; with one of them the command does what it does there:"
    return ["", "\b", heading, *lines] if lines else []


def _describe(config: type[Settings], prefix: str) -> Iterator[str]:
    """Yield name, default and meaning of every setting; those inside others as ``a.b``."""
    for name, info in config.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if isinstance(default, Settings):
            yield from _describe(type(default), f"{prefix}{name}.")
            continue
        shown = "required" if default is PydanticUndefined else json.dumps(default, default=str)
        yield f"  {prefix}{name} ({shown})"
        if info.description:
            yield f"      {' '.join(info.description.split())}"
