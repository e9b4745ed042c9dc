import fcntl

import pytest

from longrun.launch.jobs import JobState, last_line, state_of

QUEUED = {"7": JobState("queued", "job 7"), "8": JobState("running", "job 8")}


@pytest.fixture
def job(tmp_path):
    def write(name: str = "job", **files: str):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, text in files.items():
            (folder / file.replace("_", ".")).write_text(text)
        return folder

    return write


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, "waiting"),
        ({"job_sh": "", "ids": "7\n"}, "queued"),
        ({"job_sh": "", "ids": "8\n"}, "running"),
        ({"job_sh": "", "ids": "8\n7\n", "exit": "75\n"}, "running"),
        ({"job_sh": "", "ids": "7\n", "exit": "0\n"}, "done"),
        ({"job_sh": "", "ids": "1\n", "exit": "0\n"}, "done"),
        ({"job_sh": "", "ids": "1\n"}, "interrupted"),
        ({"job_sh": "", "ids": "1\n", "exit": "75\n"}, "interrupted"),
        ({"job_sh": "", "ids": "1\n", "exit": "143\n"}, "interrupted"),
        ({"job_sh": "", "ids": "1\n", "exit": "213\n"}, "cancelled"),
        ({"job_sh": "", "ids": "1\n", "cancelled": "by me\n"}, "cancelled"),
        ({"job_sh": "", "ids": "1\n", "exit": "2\n"}, "failed"),
    ],
    ids=str,
)
def test_the_state_of_a_job_is_read_from_its_folder_and_the_queue(job, files, state):
    assert state_of(job(**files), QUEUED).state == state


def test_a_job_that_never_started_after_a_failed_one_is_cancelled_all_the_way_down(job):
    first = job("first", job_sh="", exit="1\n", ids="1\n")
    second = job("second", job_sh="", ids="2\n", after_json=f'["{first}"]')
    third = job("third", job_sh="", ids="3\n", after_json=f'["{second}"]')
    assert state_of(second, {}) == JobState("cancelled", "first did not finish")
    assert state_of(third, {}) == JobState("cancelled", "second did not finish")
    (first / "exit").write_text("0\n")
    assert state_of(second, {}).state == "interrupted"


def test_a_job_whose_lock_is_held_runs_here(job):
    folder = job(job_sh="")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert state_of(folder, {}).state == "running"
    assert state_of(folder, {}).state == "interrupted"


def test_the_last_words_of_a_log_are_the_commands_own(tmp_path):
    log = tmp_path / "log.txt"
    assert last_line(log) == ""
    log.write_text("one\nthe reason\n\nsrun: error: n1: task 0: Exited\nslurmstepd: error: x\n")
    assert last_line(log) == "the reason"
    log.write_text("srun: error: no such node\n")
    assert last_line(log) == "srun: error: no such node"
