"""Shell commands as jobs of a real Slurm: order, failure, arrays, limits, containers."""

import shutil

import pytest

from longrun import run_cmd, wrap_arguments
from longrun.errors import ConfigError, LaunchError

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("slurm")]


def start(desk, name: str, command: str, **options):
    return run_cmd(
        ctx=wrap_arguments(command), cluster=desk.write_cluster(), expname=name, **options
    )


def test_a_command_returns_a_handle_at_once_and_later_commands_wait_for_its_name(desk):
    first = start(desk, "first", "sleep 1; echo one > order", log_dir=desk.folder / "logs")
    assert first.ids
    assert first.state().live
    second = start(desk, "second", "cat order && echo two", run_after=["first"])
    assert second.wait().state == "done"
    assert first.state().state == "done"
    assert second.log() == "one\ntwo\n"
    assert (desk.folder / "logs/first.log").exists()


def test_what_follows_a_failure_is_cancelled_and_can_be_run_again_after_a_repair(desk):
    bad = start(desk, "bad", "sleep 2; test -e repaired || { echo reason; exit 7; }")
    child = start(desk, "child", "echo ran", run_after="bad")
    grandchild = start(desk, "grandchild", "echo ran", run_after="child")
    assert bad.wait().state == "failed"
    assert bad.state().reason == "reason"
    for follower in (child, grandchild):
        assert follower.wait().state == "cancelled"
        assert "ran" not in follower.log()
    assert child.state().reason == "bad did not finish"
    with pytest.raises(LaunchError, match=r"run_after 'bad': its job bad is failed: reason \(log:"):
        start(desk, "late", "echo ran", run_after="bad")
    (desk.folder / "repaired").touch()
    start(desk, "bad", "sleep 2; test -e repaired || { echo reason; exit 7; }")
    child = start(desk, "child", "echo ran", run_after="bad")
    assert child.wait().state == "done"


def test_the_node_that_failed_says_why_not_those_that_were_ended_for_it(desk):
    command = 'if [ "$NODE_RANK" = 1 ]; then echo reason; exit 3; fi; sleep 60'
    handle = start(desk, "pair", command, num_nodes=2)
    assert handle.wait().state == "failed"
    assert handle.state().reason == "reason"
    assert (handle.folder / "exit").read_text() == "3\n"


def test_a_job_that_slurm_starts_too_early_refuses_by_itself(desk):
    start(desk, "bad", "exit 1").wait()
    start(desk, "good", "echo ran", run_after=[]).wait()
    script = desk.runs / "good/jobs/good/job.sh"
    script.write_text(script.read_text().replace("after=()", f"after=({desk.runs}/bad/jobs/bad)"))
    (script.parent / "exit").unlink()
    desk.slurm.run("sbatch", "--wait", str(script), check=False)
    assert (script.parent / "exit").read_text() == "213\n"
    assert desk.states("good") == {"good": "cancelled"}


def test_the_parts_of_an_array_that_failed_alone_run_again(desk):
    command = (
        "echo part $LONGRUN_PART of $LONGRUN_NUM_PARTS >> all; test $LONGRUN_PART != 2 -o -e ok"
    )
    cluster = desk.write_cluster(max_array_tasks=2)
    handle = run_cmd(command, cluster=cluster, expname="parts", num_parts=5)
    assert handle.wait().state == "failed"
    (desk.folder / "ok").touch()
    handle = run_cmd(command, cluster=cluster, expname="parts", num_parts=5)
    after = run_cmd("sort all", cluster=cluster, expname="sorted", run_after="parts")
    assert after.wait().state == "done"
    assert handle.state().state == "done"
    lines = after.log().splitlines()
    assert (
        lines.count("part 1 of 5") == lines.count("part 3 of 5") == lines.count("part 5 of 5") == 1
    )
    assert lines.count("part 2 of 5") == 2
    assert set(lines) == {f"part {part} of 5" for part in range(1, 6)}


@pytest.mark.journey
def test_a_real_time_limit_warns_the_command_and_its_job_goes_on(desk):
    command = (
        "trap 'exit 75' USR1; touch steps; while [ $(wc -l < steps) -lt 75 ]; do"
        " echo step >> steps; sleep 1 & wait $!; done"
    )
    handle = start(desk, "long", command, time_limit="1m", resumable=True)
    after = start(desk, "after", "wc -l < steps", run_after="long")
    desk.until(lambda: not after.state().live, "both jobs", seconds=280)
    assert after.log() == "75\n"
    assert len(handle.ids) == 1
    assert "back into the queue" in handle.log()


def test_a_preempted_job_saves_and_goes_on_by_itself(desk):
    command = (
        "trap 'exit 75' USR1 TERM; echo started; test ${SLURM_RESTART_COUNT:-0} -gt 0 && exit 0;"
        " while :; do sleep 0.2; done"
    )
    cluster = desk.write_cluster(exclusive=True)
    handle = run_cmd(command, cluster=cluster, expname="low", num_nodes=3, resumable=True)
    desk.until(lambda: handle.log().count("started") == 3, "the start")
    urgent = run_cmd("echo now", cluster=cluster, expname="urgent", partition="urgent")
    assert urgent.wait().state == "done"
    desk.until(lambda: handle.state().state == "done", "the second attempt")
    assert handle.log().count("started") == 6
    assert len(handle.ids) == 1


def test_cancel_ends_what_runs_and_what_waits_for_it(desk):
    start(desk, "endless", "sleep 600")
    start(desk, "next", "echo ran", run_after="endless")
    assert "cancelled: endless" in desk.longrun("cancel", "endless")
    desk.wait_for("endless", endless="cancelled")
    desk.wait_for("next", next="cancelled")
    assert "nothing waits or runs" in desk.longrun("cancel", "endless")


def test_logs_follow_a_job_to_its_end_and_status_lists_what_there_is(desk):
    start(desk, "talks", "for i in 1 2 3; do echo line $i; sleep 0.5; done")
    assert desk.longrun("logs", "talks", "-f") == "line 1\nline 2\nline 3\n"
    desk.wait_for("talks", talks="done")
    listed = desk.longrun("status")
    assert "talks" in listed
    assert "1 done" in listed


def test_a_container_sees_its_mounts_alone(desk, slurm):
    if "pyxis_double" not in (slurm.folder / "plugstack.conf").read_text():
        pytest.skip("NO CONTAINER TEST: no C compiler or no headers of Slurm (libslurm-dev)")
    image = desk.folder / "image"
    for name in ("usr", "lib", "lib64", "bin", "etc", "proc", "dev", "tmp"):
        (image / name).mkdir(parents=True)
    data = desk.folder / "data"
    data.mkdir()
    (data / "in").write_text("content\n")
    containers = {
        "container_runtime": "pyxis",
        "containers": {"plain": str(image)},
        "mounts": [f"{data}:/workspace:ro"],
    }
    cluster = desk.write_cluster(**containers)
    command = f"cat /workspace/in; touch /workspace/no; ls {data}; echo $LONGRUN_FOLDER"
    handle = run_cmd(command, cluster=cluster, expname="inside", container="plain")
    desk.until(lambda: not handle.state().live, "the job")
    log = handle.log()
    assert log.startswith("content\n")
    assert "Read-only file system" in log
    assert "No such file or directory" in log
    assert log.endswith("jobs/inside\n")


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"run_after": "nobody"}, {}, r"no experiment 'nobody' in .*runs; there is none yet"),
        ({"run_after": "me", "expname": "me"}, {}, r"cannot wait for itself"),
        ({"partition": "bach"}, {}, r"no partition 'bach'; did you mean batch\?"),
        ({"num_gpus": 3}, {"gpus_per_node": 2}, r"num_gpus: 3 GPUs on a node, .* gpus_per_node: 2"),
        ({}, {"required_env": ["SECRET_OF_TESTS"]}, r"SECRET_OF_TESTS is not set; export"),
        ({}, {"sbatch": ["--licenses=none:1"]}, r"sbatch refused .*[Ll]icense"),
        (
            {"container": "/no/image.sqsh"},
            {"container_runtime": "pyxis"},
            r"container /no/image\.sqsh: does not exist",
        ),
        (
            {},
            {"container_runtime": "pyxis", "mounts": ["/no/folder:/data"], "container": "x"},
            r"mounts: /no/folder does not exist",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_cluster_lacks_is_one_line_before_anything_is_queued(
    desk, options, settings, message
):
    cluster = desk.write_cluster(**settings)
    with pytest.raises((ConfigError, LaunchError), match=message) as caught:
        run_cmd("echo", cluster=cluster, **{"expname": "bad-input", **options})
    assert "\n" not in str(caught.value)
    assert not desk.slurm.run("squeue", "-h", "-n", "bad-input")


def test_secrets_reach_the_job_and_no_file(desk, monkeypatch):
    monkeypatch.setenv("SECRET_OF_TESTS", "tell-nobody")
    cluster = desk.write_cluster(required_env=["SECRET_OF_TESTS"], env={"OPEN": "yes"})
    handle = run_cmd("echo ${#SECRET_OF_TESTS} $OPEN", cluster=cluster, expname="secret")
    assert handle.wait().state == "done"
    assert handle.log() == "11 yes\n"
    for path in desk.folder.rglob("*"):
        assert not path.is_file() or b"tell-nobody" not in path.read_bytes()


def test_a_cluster_that_disappears_is_said_and_the_same_command_continues(desk):
    started, go_on = desk.folder / "started", desk.folder / "go-on"
    start(desk, "before", f"touch {started}; until [ -e {go_on} ]; do sleep 0.1; done")
    desk.until(started.exists, "the first job")
    desk.slurm.stop_controller()
    try:
        with pytest.raises(LaunchError, match=r"what was submitted is kept"):
            start(desk, "after", "echo ran", run_after="before")
        assert "the cluster was not asked" in desk.longrun("status", "before")
    finally:
        desk.slurm.start_controller()
        go_on.touch()
    desk.until(lambda: start_again(desk), "the cluster")
    desk.wait_for("after", after="done")


def start_again(desk) -> bool:
    try:
        start(desk, "after", "echo ran", run_after="before")
    except LaunchError:
        return False
    return True


def test_code_of_the_repository_is_that_of_the_submission(desk):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (desk.folder / "program.sh").write_text("echo old\n")
    (desk.folder / ".gitignore").write_text("runs/\n")
    desk.slurm.run("git", "init", "--quiet", str(desk.folder))
    cluster = desk.write_cluster(code="repository")
    blocker = run_cmd("sleep 2", cluster=cluster, expname="blocker")
    handle = run_cmd("bash program.sh", cluster=cluster, expname="kept", run_after="blocker")
    (desk.folder / "program.sh").write_text("echo new\n")
    assert handle.wait().state == "done"
    assert handle.log() == "old\n"
    assert blocker.state().state == "done"
    assert len(list((desk.runs / "code").iterdir())) == 2
