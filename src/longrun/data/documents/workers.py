"""Share independent tasks among worker processes; which worker did what leaves no trace.

Tasks are handed out in order. When one fails, the tasks before it are finished, the rest is
ended, and the error of the *earliest* failing task is raised: the same one on every run. Workers
are ended with this process, however it dies.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Protocol, TypeVar

from longrun.errors import LongrunError, ResourceError, explain_refusal
from longrun.formats.processes import available_cores, die_with_parent

TaskT = TypeVar("TaskT")
TaskT_contra = TypeVar("TaskT_contra", contravariant=True)

Report = Callable[[Any], None]
"""Called with an amount of work done, whatever the task counts it in."""


class Job(Protocol[TaskT_contra]):
    """What every worker does; pickled once to each of them."""

    def start(self) -> Callable[[TaskT_contra, Report], None]:
        """Load what the work needs and return the function that does one task."""


def run_tasks(job: Job[TaskT], tasks: Sequence[TaskT], num_workers: int, report: Report) -> None:
    """Do every task; ``report`` is called here with the amounts that the tasks report.

    ``num_workers`` 0: one per core. A single worker is this process itself.

    Raises:
        LongrunError: that of the earliest task that failed.
        ResourceError: a worker process died, most often because memory ran out.
    """
    num_workers = min(num_workers or available_cores(), len(tasks))
    if num_workers <= 1:
        work = job.start() if tasks else None
        for task in tasks:
            assert work is not None
            work(task, report)
        return
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for _ in range(num_workers):
            workers.append(_start_worker(context, job, available_cores() // num_workers))
        _deal(workers, tasks, report)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: int | None = None
    """Position of the task that it works on."""


def _start_worker(context: SpawnContext, job: Job[Any], num_threads: int) -> _Worker:
    ours, theirs = context.Pipe()
    level = logging.getLogger().level
    arguments = (theirs, job, os.getpid(), level, num_threads)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _deal(workers: list[_Worker], tasks: Sequence[Any], report: Report) -> None:
    waiting = list(reversed(range(len(tasks))))
    failed: dict[int, Exception] = {}
    for worker in workers:
        _hand_out(worker, tasks, waiting)
    while busy := [worker for worker in workers if _still_wanted(worker, failed)]:
        ready = wait([worker.connection for worker in busy])
        for worker in busy:
            if worker.connection not in ready:
                continue
            kind, content = _receive(worker)
            if kind == "report":
                report(content)
                continue
            if kind == "failed":
                assert worker.task is not None
                failed[worker.task] = content
            worker.task = None
            if not failed:
                _hand_out(worker, tasks, waiting)
    if failed:
        raise failed[min(failed)]


def _hand_out(worker: _Worker, tasks: Sequence[Any], waiting: list[int]) -> None:
    if waiting:
        worker.task = waiting.pop()
        # A worker that has died is noticed when its answer is read.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(tasks[worker.task])


def _still_wanted(worker: _Worker, failed: dict[int, Exception]) -> bool:
    """Whether to wait for a worker: it is at work, and nothing earlier has failed already."""
    return worker.task is not None and (not failed or worker.task < min(failed))


def _receive(worker: _Worker) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = worker.connection.recv()
    except (EOFError, OSError, pickle.UnpicklingError):
        # With a task unread in its pipe, its death is a reset; in the middle of an answer, half.
        worker.process.join()
        code = worker.process.exitcode
        raise ResourceError(
            f"a worker process ended unasked (exit code {code}), most often because memory ran"
            " out; set num_workers lower and run the same command again to continue"
        ) from None
    return message


def _work(
    connection: Connection, job: Job[Any], parent: int, log_level: int, num_threads: int
) -> None:
    """Run inside a worker process until the parent ends it."""
    die_with_parent(parent)
    # Ctrl-C reaches the whole group; the parent alone answers it and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=log_level)
    # The workers share the cores; where there are fewer of them, each has several for tokenizers.
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(max(1, num_threads))
    work: Callable[[Any, Report], None] | None = None
    while True:
        task = connection.recv()
        try:
            work = work or job.start()
            work(task, lambda amount: connection.send(("report", amount)))
            connection.send(("done", None))
        except LongrunError as error:
            connection.send(("failed", error))
        except Exception as error:  # noqa: BLE001  (a bug crosses the border as its traceback)
            refusal = explain_refusal(error) if isinstance(error, OSError) else None
            bug = RuntimeError(f"in a worker:\n{traceback.format_exc()}")
            connection.send(("failed", refusal or bug))
