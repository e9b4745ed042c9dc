"""Every error that Longrun raises on purpose: one tree, picklable, one line each.

The command line prints the message of a ``LongrunError`` on one line and exits with its code.
What the system refuses (a read-only disk, a name too long) becomes one by ``explain_refusal``.
Any other exception is a bug and crashes with a traceback.
"""

import errno
import sys
from pathlib import Path
from types import TracebackType

EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: stopped with everything saved; started again, it goes on."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C, as shells say it: 128 and the number of SIGINT."""
_BUG = (
    "this is a bug of Longrun: report it to the project's issue tracker, with the command and all"
    " the lines above"
)
_REMEDIES = {
    errno.ENOENT: "name one that exists",
    errno.EACCES: "this user may not do that; change the permissions or name another place",
    errno.EPERM: "this user may not do that; change the permissions or name another place",
    errno.EROFS: "name a place on a disk that can be written",
    errno.ENOTDIR: "a part of the path is a file; name another place",
    errno.EISDIR: "name a file",
    errno.EEXIST: "move it away or name another place",
    errno.ENAMETOOLONG: "a name has at most 255 bytes, a path 4095; shorten it",
    errno.ELOOP: "links lead to each other; name another place",
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space, then run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), then run the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
    errno.ENFILE: "too many files are open on this machine; run the same command again later",
    errno.ENOMEM: "memory is short; run the same command again with less beside it",
    errno.EIO: "the disk fails; check it, then run the same command again",
    errno.ESTALE: "the file server has lost it; run the same command again",
    errno.ETXTBSY: "it is in use; run the same command again later",
    errno.ENOLCK: "the file system has no locks; name a place on another one",
}
"""What the system says about files and memory -> what to do. Nothing else is the user's."""
_MOST_CHARS = 4000
"""Length of a message; what it quotes may be as long as the input."""


class LongrunError(Exception):
    """Something that the user can mend. The message names what, where, the bound and the remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        """Fold ``message`` onto one line, so that it can be read in a log and found by grep."""
        line = " ".join(message.split())
        super().__init__(line if len(line) <= _MOST_CHARS else f"{line[:_MOST_CHARS]} ...")


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


def explain_refusal(error: OSError) -> ResourceError | None:
    """Return what the system refused as one line with a remedy; None: it is a bug's doing."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    place = f"{error.filename}: " if error.filename is not None else ""
    return ResourceError(f"{place}{str(error.strerror).lower()}; {remedy}")


def end_bugs_with_a_line() -> None:
    """Let the traceback of this process, if it comes to one, end with where to report it."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        if issubclass(kind, Exception):
            print(_BUG, file=sys.stderr)

    sys.excepthook = show
