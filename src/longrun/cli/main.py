"""The command line: ``longrun VERB [FILE.yaml] [name=value ...]``.

Importing this module must not import torch: ``--help``, ``--dry-run`` and the checks of a recipe
answer on a login node. The only exit codes:

    0    done
    1    a bug: a traceback and where to report it (or nobody reads what is printed any more)
    2    the command, its input or the machine is at fault: one line
    75   stopped with everything saved, as asked; a cluster goes on with the same command
    130  ended by Ctrl-C; the same command continues
"""

import logging
import os
import sys
from typing import NoReturn

import typer

from longrun.cli import cluster_verbs, inspect_verb, plan_verb, run_verbs, stage_verbs
from longrun.cli.options import with_underscores
from longrun.config.bounds import is_unicode
from longrun.errors import (
    EXIT_INTERRUPTED,
    ConfigError,
    LongrunError,
    end_bugs_with_a_line,
    explain_refusal,
)
from longrun.formats.terminal import protect_streams

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
    end_bugs_with_a_line()
    protect_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _check_words()
        app()
    except LongrunError as error:
        _leave(error)
    except OSError as error:
        refusal = explain_refusal(error)
        if refusal is None:
            raise
        _leave(refusal)
    except KeyboardInterrupt:
        print("longrun: interrupted; run the same command to continue", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _check_words() -> None:
    """Refuse words that no file and no message can hold; the system passes any bytes on."""
    for place, word in enumerate(sys.argv[1:], 1):
        if not is_unicode(word):
            raise ConfigError(f"argument {place}: {word!r:.200} is not UTF-8; rename what it names")
    if not is_unicode(folder := os.getcwd()):
        raise ConfigError(f"the current folder, {folder!r}, has no name in UTF-8; rename it")


def _leave(error: LongrunError) -> NoReturn:
    print(f"longrun: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
