"""The command line: ``longrun VERB [FILE.yaml] [name=value ...]``.

Importing this module must not import torch: ``--help``, ``--dry-run`` and the checks of a recipe
answer on a login node. An error of the user's is one line and exit code 2; a bug is a traceback.
A stage that was asked to stop and has saved everything exits with 75, so that a cluster goes on.
"""

import logging
import sys

import typer

from longrun.cli import cluster_verbs, inspect_verb, plan_verb, run_verbs, stage_verbs
from longrun.cli.options import with_underscores
from longrun.errors import LongrunError

app = typer.Typer(
    help="Fine-tune language models on long worked solutions, from raw records to scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"token_normalize_func": with_underscores},
)
run_verbs.register(app)
cluster_verbs.register(app)
stage_verbs.register(app)
inspect_verb.register(app)
plan_verb.register(app)


def main() -> None:
    """Run the command line of this process and exit."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except LongrunError as error:
        print(f"longrun: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("longrun: interrupted; run the same command to continue", file=sys.stderr)
        sys.exit(130)
