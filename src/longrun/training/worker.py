"""One worker process of a training: ``processes`` starts ``python -m longrun.training.worker``.

Signals are caught before anything heavy is imported: SIGTERM, SIGUSR1 and SIGINT ask for a stop,
which is answered at the next step with a checkpoint and the exit code 75. What the starter must
know is left in ``rank-N.json`` of the report folder: an error of the program or the last step.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from longrun.config.reading import read_yaml
from longrun.config.training import TrainConfig, VerifyConfig
from longrun.errors import EXIT_STOPPED, LongrunError, end_bugs_with_a_line, explain_refusal
from longrun.formats.processes import STOP_SIGNALS, die_with_parent
from longrun.formats.stages.atomic import write_text

EXIT_REFUSED = 2
_REPORT_SECONDS = 10.0


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self._requested = False

    def listen(self) -> None:
        """Take every stop signal of this process as a request."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._request)

    def __call__(self) -> bool:
        """Say whether a stop was requested."""
        return self._requested

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True


def main(verb: str, config_path: str, report_folder: str, parent: str) -> int:
    """Train or verify as one rank of the mesh in the environment; return the exit code."""
    die_with_parent(int(parent))
    end_bugs_with_a_line()
    stop = StopRequest()
    stop.listen()
    rank = int(os.environ.get("RANK", "0"))
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    report = Path(report_folder) / f"rank-{rank}.json"
    values = read_yaml(Path(config_path))
    try:
        step, finished = JOBS[verb](values, stop)
    except (LongrunError, OSError) as caught:
        error = explain_refusal(caught) if isinstance(caught, OSError) else caught
        if error is None:
            raise
        write_text(report, json.dumps({"kind": type(error).__name__, "message": str(error)}))
        # The starter ends all workers once it has read this. Leaving before that would make the
        # others fail on a lost connection and bury the message.
        time.sleep(_REPORT_SECONDS if "RANK" in os.environ else 0)
        return EXIT_REFUSED
    write_text(report, json.dumps({"step": step}))
    return 0 if finished else EXIT_STOPPED


def work(values: dict[str, Any], stop: StopRequest) -> tuple[int, bool]:
    """Build, resume, verify, train and export; return (finished steps, whether that is all)."""
    from longrun.parallel.mesh import barrier, start_mesh, stop_mesh
    from longrun.training.build import build_training, check_devices, counts_of, export_final
    from longrun.training.laws import verify
    from longrun.training.loop import resume, train

    config = TrainConfig.parse(values, "train")
    check_devices(config.num_processes)
    mesh = start_mesh(tensor_size=config.tensor_parallel, context_size=config.context_parallel)
    training = build_training(config, mesh)
    state = resume(training)
    if config.verify and state.step < training.num_steps:
        documents = [
            document for pack in training.batches[0] for document in training.packs.read(pack)
        ]
        counts = counts_of(training) | {"resumed step": state.step}
        verify(training.model, mesh, documents, counts, config.loss_chunk_tokens)
    step = train(training, state, stop)
    finished = step == training.num_steps
    if finished:
        export_final(training)
    barrier()
    stop_mesh()
    return step, finished


def verify_only(values: dict[str, Any], stop: StopRequest) -> tuple[int, bool]:
    """Check the laws at length and write down what was found; return (0, True)."""
    from longrun.parallel.mesh import barrier, start_mesh, stop_mesh
    from longrun.training.build import check_devices
    from longrun.training.check_laws import prove

    config = VerifyConfig.parse(values, "verify")
    check_devices(config.num_processes)
    mesh = start_mesh(tensor_size=config.tensor_parallel, context_size=config.context_parallel)
    prove(config, mesh)
    barrier()
    stop_mesh()
    return 0, True


JOBS = {"train": work, "verify": verify_only}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
