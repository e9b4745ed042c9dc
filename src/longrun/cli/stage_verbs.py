"""One verb per stage: ``longrun pack documents=runs/x/prepare output_dir=runs/x/pack``."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic_core import PydanticUndefined

from longrun.config.base import Settings, StageConfig
from longrun.config.recipe import parse_override, read_yaml, set_nested
from longrun.config.stages import STAGES

MODULES = {
    "synthesize": "longrun.data.synthesize",
    "train_tokenizer": "longrun.data.train_tokenizer",
    "init_model": "longrun.checkpoint.init_model",
    "fetch": "longrun.data.fetch",
    "prepare": "longrun.data.prepare",
    "merge": "longrun.data.merge",
    "check_contamination": "longrun.data.check_contamination",
    "pack": "longrun.data.pack",
    "convert": "longrun.data.convert",
    "verify": "longrun.train.proof",
    "train": "longrun.train.stage",
    "average": "longrun.checkpoint.average",
    "generate": "longrun.evaluate.generate",
    "group_candidates": "longrun.evaluate.group_candidates",
    "evaluate": "longrun.evaluate.evaluate",
    "report": "longrun.report.report",
}
"""Verb -> module whose ``run(config)`` is the stage; imported when the verb runs."""

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml] [name=value ...]", help="Settings; see above."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]


def register(app: typer.Typer) -> None:
    """Add a verb for every stage to ``app``."""
    for verb, config in STAGES.items():
        app.command(verb, help=explain_settings(config), rich_help_panel=None)(_command(verb))


def load_config(verb: str, arguments: list[str]) -> StageConfig:
    """Build the settings of ``verb`` from an optional YAML file and ``name=value`` arguments.

    Raises:
        ConfigError: one line naming the setting, the bound and the nearest name.
    """
    return STAGES[verb].parse(read_values(arguments), verb)


def read_values(arguments: list[str]) -> dict[str, Any]:
    """Read YAML files and ``name=value`` arguments, the latter on top, as one tree of settings."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if "=" not in argument:
            values.update(read_yaml(Path(argument)))
    for argument in arguments:
        if "=" in argument:
            set_nested(values, *parse_override(argument))
    return values


def _command(verb: str) -> Any:
    def command(settings: Arguments = None, dry_run: DryRun = False) -> None:
        config = load_config(verb, settings or [])
        if dry_run:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
            return
        importlib.import_module(MODULES[verb]).run(config)

    return command


def explain_settings(config: type[Settings]) -> str:
    """Return the help of a verb: what it does and every setting with default and meaning."""
    heading = [(config.__doc__ or "").strip(), "", "\b", "Settings:"]
    return "\n".join([*heading, *_describe(config, "")])


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
