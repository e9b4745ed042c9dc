r"""A child process that asks math-verify whether two answers say the same; may be killed any time.

Started as ``python -m longrun.evaluation.grading.equivalence_worker CPU_SECONDS MEMORY_BYTES``.
Frames over standard input and output (see ``framed_process``)::

    request  {"expected": "\\frac{1}{2}", "given": "0.5"}
    reply    {"equal": true}

Answers go through math-verify's LaTeX grammar alone: its reader of plain expressions, and anything
else that ends in ``eval``, is never asked. A comparison that needs more than its share of CPU time
is ended by the kernel together with this process; the parent sees that and says "timed out".
"""

import json
import logging
import os
import resource
import struct
import sys
from typing import BinaryIO

from math_verify import LatexExtractionConfig, parse, verify

from longrun.formats.processes import die_with_parent


def compare(expected: str, given: str) -> bool:
    """Say whether ``given`` equals ``expected``; answers that cannot be read are not equal."""
    one, two = (
        parse(
            f"${text}$",
            extraction_config=[LatexExtractionConfig(boxed_match_priority=-1)],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        for text in (expected, given)
    )
    return bool(one and two and verify(one, two, timeout_seconds=None))


def allow_more_cpu(seconds: int) -> None:
    """Move this process's CPU limit to ``seconds`` from now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, hard))


def serve(source: BinaryIO, sink: BinaryIO, cpu_seconds: int) -> None:
    """Answer requests until they end."""
    while header := source.read(4):
        request = json.loads(source.read(struct.unpack(">I", header)[0]))
        allow_more_cpu(cpu_seconds)
        try:
            reply: dict[str, bool | str] = {"equal": compare(request["expected"], request["given"])}
        except (MemoryError, RecursionError) as error:
            reply = {"error": type(error).__name__}
        body = json.dumps(reply).encode()
        sink.write(struct.pack(">I", len(body)) + body)
        sink.flush()


def main() -> None:
    """Limit this process and serve; what libraries print must not reach the pipe."""
    cpu_seconds, memory_bytes, parent = map(int, sys.argv[1:])
    die_with_parent(parent)
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as null:
        for descriptor in (0, 1, 2):
            os.dup2(null.fileno(), descriptor)
    serve(source, sink, cpu_seconds)


if __name__ == "__main__":
    main()
