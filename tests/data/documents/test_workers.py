import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from longrun.data.documents.workers import run_tasks
from longrun.errors import InputError, ResourceError


@dataclass
class WriteFile:
    """Write one file per task; task ``fail-N`` fails, task ``die`` kills its process."""

    folder: str

    def start(self):
        return self.work

    def work(self, task, report):
        if task.startswith("fail"):
            time.sleep(0.3 if task == "fail-0" else 0.0)
            Path(self.folder, task).touch()
            raise InputError(f"{task} is broken")
        if task.startswith("after"):
            while not Path(self.folder, "fail-1").exists():
                time.sleep(0.01)
            time.sleep(0.3)
        if task == "bug":
            raise KeyError(task)
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        with open(f"{self.folder}/{task}", "w") as file:
            file.write(task)
        report(2)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_task_is_done_and_reported(num_workers, tmp_path):
    reported = []
    run_tasks(WriteFile(str(tmp_path)), ["a", "b", "c", "d"], num_workers, reported.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]
    assert reported == [2, 2, 2, 2]


def test_no_tasks_are_no_work(tmp_path):
    run_tasks(WriteFile(str(tmp_path)), [], 4, lambda amount: None)


def test_the_error_of_the_earliest_failing_task_is_raised(tmp_path):
    with pytest.raises(InputError, match="fail-0 is broken"):
        run_tasks(WriteFile(str(tmp_path)), ["fail-0", "fail-1"], 2, lambda amount: None)


def test_after_a_failure_no_new_task_is_begun(tmp_path):
    tasks = ["fail-1", *(f"after-{number}" for number in range(9))]
    with pytest.raises(InputError):
        run_tasks(WriteFile(str(tmp_path)), tasks, 2, lambda amount: None)
    assert len(list(tmp_path.iterdir())) < 9


def test_a_worker_that_dies_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ResourceError, match=r"exit code -9.*set num_workers lower"):
        run_tasks(WriteFile(str(tmp_path)), ["die", "b"], 2, lambda amount: None)


class DieAtOnce(WriteFile):
    """Ends its process before the first task is read from the pipe."""

    def __setstate__(self, state):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_with_its_task_unread_is_the_same_error(tmp_path):
    with pytest.raises(ResourceError, match=r"exit code -9.*set num_workers lower"):
        run_tasks(DieAtOnce(str(tmp_path)), ["a", "b"], 2, lambda amount: None)


def test_a_bug_in_a_worker_crashes_with_its_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="KeyError: 'bug'"):
        run_tasks(WriteFile(str(tmp_path)), ["bug", "b"], 2, lambda amount: None)
