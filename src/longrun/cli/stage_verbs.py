"""One verb per stage: ``longrun pack documents=runs/x/prepare output_dir=runs/x/pack``."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic_core import PydanticUndefined

from longrun.config.base import StageConfig
from longrun.config.recipe import parse_override, read_yaml, set_nested
from longrun.config.stages import STAGES

MODULES = {
    "synthesize": "longrun.data.synthesize",
    "train_tokenizer": "longrun.data.train_tokenizer",
    "init_model": "longrun.checkpoint.init_model",
    "prepare": "longrun.data.prepare",
    "pack": "longrun.data.pack",
    "train": "longrun.train.stage",
    "average": "longrun.checkpoint.average",
    "generate": "longrun.evaluate.generate",
    "evaluate": "longrun.evaluate.evaluate",
    "report": "longrun.report.report",
}
"""Verb -> module whose ``run(config)`` is the stage; imported when the verb runs."""

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml] [name=value ...]", help="Settings; see below."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]


def register(app: typer.Typer) -> None:
    """Add a verb for every stage to ``app``."""
    for verb, config in STAGES.items():
        app.command(verb, help=_help(config), rich_help_panel=None)(_command(verb))


def load_config(verb: str, arguments: list[str]) -> StageConfig:
    """Build the settings of ``verb`` from an optional YAML file and ``name=value`` arguments.

    Raises:
        ConfigError: one line naming the setting, the bound and the nearest name.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        if "=" not in argument:
            values.update(read_yaml(Path(argument)))
    for argument in arguments:
        if "=" in argument:
            set_nested(values, *parse_override(argument))
    return STAGES[verb].parse(values, verb)


def _command(verb: str) -> Any:
    def command(settings: Settings = None, dry_run: DryRun = False) -> None:
        config = load_config(verb, settings or [])
        if dry_run:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
            return
        importlib.import_module(MODULES[verb]).run(config)

    return command


def _help(config: type[StageConfig]) -> str:
    lines = [(config.__doc__ or "").strip(), "", "\b", "Settings:"]
    for name, info in config.model_fields.items():
        default = info.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else _short(default)
        lines.append(f"  {name} ({shown})")
        if info.description:
            lines.append(f"      {' '.join(info.description.split())}")
    return "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, list | dict) or hasattr(value, "model_fields"):
        return "see the JSON schema" if value else "none"
    return str(value)
