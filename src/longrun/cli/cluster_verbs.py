"""The verbs about clusters: setup, run_cmd."""

from difflib import get_close_matches
from typing import Annotated, Any

import typer

from longrun.cli.options import (
    ClusterName,
    ConfigDir,
    DryRun,
    LogDir,
    Partition,
    RunAfter,
    TimeLimit,
    choose_cluster,
    names_in,
)
from longrun.cli.show import make_line_watcher, print_scripts
from longrun.config.cluster import DEFAULT_FOLDER, Cluster
from longrun.config.names import NAME
from longrun.config.nemo_skills.option import EVERYWHERE
from longrun.config.nemo_skills.verbs import explain_options, option_name
from longrun.config.plain_yaml import dump_yaml
from longrun.config.reading import parse_override, set_nested
from longrun.errors import ConfigError
from longrun.formats.stages.atomic import write_text
from longrun.launch.asked import join_commands, read_asked
from longrun.launch.commands import DEFAULT_NAME, Command, render_scripts, start_command

_QUESTIONS = (
    ("executor", "Where do jobs run: slurm, or local for this machine", "slurm"),
    ("job_dir", "Folder for experiments that every node sees (starts with /)", ""),
    ("account", "Account that jobs are booked on (empty: none)", ""),
    ("partition", "Partition of jobs with GPUs (empty: the default one)", ""),
    ("cpu_partition", "Partition of jobs without GPUs (empty: the same)", ""),
    ("time_limits", "Time limits, as in {batch: 4h, cpu: 3d} (empty: the partitions' own)", ""),
    ("gpus_per_node", "GPUs of a node", "8"),
    ("container_runtime", "Containers: none, pyxis or apptainer", "none"),
    ("container", "Image of jobs", ""),
    ("mounts", "Mounts, as in [/data, /home/me:/workspace]", ""),
)
_LOCAL = {"executor", "job_dir", "gpus_per_node"}
_CONTAINER = {"container", "mounts"}
_SIMILAR = 0.75
_RUN_CMD_HELP = "Run a shell command as a job: longrun run_cmd [options] COMMAND ..."


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    app.command()(setup)
    words = {"allow_extra_args": True, "ignore_unknown_options": True}
    options = [
        "",
        "\b",
        "Options of NeMo-Skills, in front of COMMAND:",
        *explain_options("run_cmd"),
    ]
    text = "\n".join([_RUN_CMD_HELP, *options])
    app.command("run_cmd", help=text, context_settings=words)(run_command)


def setup(
    name: Annotated[str, typer.Argument(help="What to call the cluster.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[name=value ...]", help="Settings; none: asks a few questions."),
    ] = None,
    config_dir: ConfigDir = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
) -> None:
    """Write a cluster file, by a few questions or from name=value."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"setup: {name!r} is not a name; use at most 200 letters, digits, . _ -")
    path = (config_dir or DEFAULT_FOLDER) / f"{name}.yaml"
    if path.exists() and not replace:
        raise ConfigError(f"{path}: exists; edit it, or write it anew with --replace")
    values: dict[str, Any] = {}
    for setting in settings or _ask():
        set_nested(values, *parse_override(setting))
    Cluster.parse(values, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, dump_yaml(values))
    print(f"{path}: written; use it with --cluster {name}")


def run_command(  # noqa: PLR0913, PLR0917 - one argument per option
    context: typer.Context,
    cluster: ClusterName = None,
    config_dir: ConfigDir = None,
    expname: Annotated[str, typer.Option(help="Name to find it by.")] = DEFAULT_NAME,
    container: Annotated[str | None, typer.Option(help="Image, or its short name.")] = None,
    partition: Partition = None,
    time_limit: TimeLimit = None,
    num_gpus: Annotated[int | None, typer.Option("--num_gpus", help="GPUs of each node.")] = None,
    num_nodes: Annotated[
        int, typer.Option("--num_nodes", help="Nodes; the command starts once on each.")
    ] = 1,
    num_parts: Annotated[
        int | None,
        typer.Option("--num_parts", help="Run it so often, with LONGRUN_PART = 1, 2, ..."),
    ] = None,
    run_after: RunAfter = None,
    log_dir: LogDir = None,
    resumable: Annotated[
        bool,
        typer.Option("--resumable", help="Started again it goes on: requeue at a time limit."),
    ] = False,
    preprocess_cmd: Annotated[
        str | None, typer.Option("--preprocess_cmd", help="What runs before it.")
    ] = None,
    postprocess_cmd: Annotated[
        str | None, typer.Option("--postprocess_cmd", help="What runs after it if it succeeded.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Run a shell command as a job."""
    asked = {
        "container": container,
        "partition": partition,
        "time_limit": time_limit,
        "num_gpus": num_gpus,
    }
    others, words = _split(context)
    command = Command(
        text=join_commands(preprocess_cmd, " ".join(words), postprocess_cmd),
        cluster=choose_cluster(cluster, config_dir),
        expname=expname,
        settings=read_asked(asked, others),
        num_nodes=num_nodes,
        num_parts=num_parts,
        run_after=names_in(run_after),
        log_dir=log_dir,
        resumable=resumable,
    )
    if dry_run:
        print_scripts(render_scripts(command))
        return
    handle = start_command(command, make_line_watcher())
    option = command.cluster.option
    if handle.ids:
        print(f"{handle.name}: job {', '.join(handle.ids)}; longrun logs -f {handle.name}{option}")


def _split(context: typer.Context) -> tuple[dict[str, Any], list[str]]:
    """Return the reference's options in front of a command, and the words of the command."""
    words, others = list(context.args), dict[str, Any]()
    while words and words[0].startswith("-"):
        first, rest = words[0], words[1:]
        option = EVERYWHERE.get(option_name(first))
        if option is None:
            # An option that is not known must not become a part of the command.
            raise ConfigError(
                f"run_cmd: no such option {first.partition('=')[0]}; {_hint(context)}"
            )
        _, sign, text = first.partition("=")
        if not sign and not option.flag and rest:
            text, rest = rest[0], rest[1:]
        others[option_name(first)] = text or None if not option.flag else True
        words = rest
    return others, words


def _hint(context: typer.Context) -> str:
    own = [name for option in context.command.params for name in option.opts]
    word = f"--{option_name(context.args[0])}"
    close = get_close_matches(word, [*own, *(f"--{name}" for name in EVERYWHERE)], 1, _SIMILAR)
    return f"did you mean {close[0]}?" if close else "see `longrun run_cmd --help`"


def _ask() -> list[str]:
    answers: dict[str, str] = {}
    for key, question, default in _QUESTIONS:
        if answers.get("executor") == "local" and key not in _LOCAL:
            continue
        if key in _CONTAINER and answers.get("container_runtime") == "none":
            continue
        try:
            answers[key] = typer.prompt(question, default=default)
        except typer.Abort:
            raise ConfigError(f"setup: no answer; give it as {key}=VALUE") from None
    return [f"{key}={answer}" for key, answer in answers.items() if answer]
