"""Every error that Longrun raises on purpose: one tree, picklable, one line each.

The command line prints the message of a ``LongrunError`` on one line and exits with its code.
Any other exception is a bug and crashes with a traceback.
"""

from pathlib import Path

EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: stopped with everything saved; started again, it goes on."""


class LongrunError(Exception):
    """Something that the user can mend. The message names what, where, the bound and the remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        """Fold ``message`` onto one line, so that it can be read in a log and found by grep."""
        super().__init__(" ".join(message.split()))


class ConfigError(LongrunError):
    """A setting is unknown, missing, of the wrong type or out of its bound."""


class InputError(LongrunError):
    """A file, record or model folder cannot be used as it is."""

    @classmethod
    def at(cls, path: Path | str, line: int | None, problem: str) -> "InputError":
        """Build the error for ``problem`` in ``path``; ``line`` counts from 1, None: whole file."""
        where = str(path) if line is None else f"{path}:{line}"
        return cls(f"{where}: {problem}")


class StaleError(LongrunError):
    """Output of other settings or other inputs is in the way; nothing was mixed or deleted."""


class ResourceError(LongrunError):
    """The machine cannot do it: the disk is full, memory is short, a program is missing."""


class VerificationError(LongrunError):
    """A law that training depends on does not hold on this machine, model or data."""


class LaunchError(LongrunError):
    """A job could not be started, failed, or was interrupted."""


class StoppedError(LaunchError):
    """A stage stopped because it was asked to, with everything saved; started again it goes on."""

    exit_code = EXIT_STOPPED


class LostNodeError(LaunchError):
    """A machine was lost; nothing is wrong with the stage, which goes on when started again."""

    exit_code = EXIT_STOPPED
