import random
import resource
import subprocess
import sys
import time

import pytest
import torch

from longrun.checkpoint.saving import Retention, Saver
from longrun.checkpoint.sharded import LoopState, find_checkpoints, load_checkpoint
from longrun.errors import ResourceError
from longrun.parallel.mesh import Mesh

ALONE = Mesh(0, 1, torch.device("cpu"), "none")
ALL = Retention(None, ())


@pytest.fixture
def saver(tmp_path):
    """Return ``saver(retention)``; all of them end with the test."""
    made = []
    yield (
        lambda retention=ALL: (
            made.append(Saver(tmp_path, ALONE, retention, background=True)) or (made[-1])
        )
    )
    for one in made:
        one.close()


def value_of(path) -> torch.Tensor:
    target = {"model.a": torch.zeros(1000)}
    load_checkpoint(path, target, ALONE)
    return target["model.a"]


def test_what_changes_after_the_save_began_is_not_in_it(saver, tmp_path):
    tensors = {"model.a": torch.full((1000,), 1.0)}
    one = saver()
    for step in (1, 2, 3):
        one.begin(LoopState(step, 0, 0), tensors)
        tensors["model.a"].add_(1.0)
    one.wait()
    for step, path in find_checkpoints(tmp_path).items():
        assert torch.equal(value_of(path), torch.full((1000,), float(step)))


def test_the_newest_and_those_to_be_averaged_are_kept(saver, tmp_path):
    one = saver(Retention(2, {1, 3}))
    for step in range(1, 7):
        one.begin(LoopState(step, 0, 0), {"model.a": torch.zeros(4)})
    one.wait()
    assert list(find_checkpoints(tmp_path)) == [1, 3, 5, 6]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


def test_what_a_killed_save_left_is_overwritten(saver, tmp_path):
    aside = tmp_path / "checkpoints" / ".step-00000005.tmp"
    aside.mkdir(parents=True)
    (aside / "__9_9.distcp").write_bytes(b"old")
    one = saver()
    path = one.begin(LoopState(5, 0, 0), {"model.a": torch.zeros(4)})
    one.wait()
    assert sorted(p.name for p in path.iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "checksums.json",
        "state.json",
    ]
    assert not aside.exists()


def test_a_checkpoint_that_cannot_fit_is_refused_before_anything_is_written(saver, tmp_path):
    huge = torch.zeros(1).expand(1 << 50)
    with pytest.raises(ResourceError, match=r"step-00000001: no space left: .* needs 4503"):
        saver().begin(LoopState(1, 0, 0), {"model.a": huge})
    assert list((tmp_path / "checkpoints").iterdir()) == []


SAVES = """
import resource, sys, time
from pathlib import Path
import torch
from longrun.checkpoint.saving import Retention, Saver
from longrun.checkpoint.sharded import LoopState
from longrun.errors import ResourceError
from longrun.parallel.mesh import Mesh

def saves(folder, sizes, prepare=lambda step: None):
    saver = Saver(Path(folder), Mesh(0, 1, torch.device("cpu"), "none"), Retention(None, ()),
                  background=True)
    for step, size in enumerate(sizes, 1):
        prepare(step)
        try:
            saver.begin(LoopState(step, 0, 0), {"model.a": torch.full((size,), float(step))})
        except ResourceError as error:
            print(step, error)
            return
        while not saver.failed and saver._under_way is not None and not saver._under_way.done():
            time.sleep(0.001)
        print("failed" if saver.failed else "saved", step, flush=True)
"""


def test_a_size_limit_is_named_at_the_next_save_and_the_last_good_one_is_kept(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
    code = SAVES + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "saves(sys.argv[1], [1000, 90_000, 1000])\n"
    )
    command = [sys.executable, "-c", code, tmp_path]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[:2] == ["saved 1", "failed 2"]
    assert "step-00000002: no space left" in said[2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_disk_that_fills_up_is_named_and_the_last_good_one_is_kept(tmp_path):
    """A real small disk whose last inode is used up between the check and the write."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel does not let a user mount a disk of his own")
    code = SAVES + (
        "def fill(step):\n"
        "    for number in range(99 if step == 2 else 0):\n"
        "        try: (Path(sys.argv[1]) / f'filler-{number}').touch()\n"
        "        except OSError: break\n"
        "    if step == 2: (Path(sys.argv[1]) / 'filler-0').unlink()\n"
        "saves(sys.argv[1], [1000, 1000, 1000], fill)\n"
        "print([path.name for path in Path(sys.argv[1], 'checkpoints').glob('*')])\n"
    )
    mount = 'mount -t tmpfs -o size=8m,nr_inodes=30 none "$1" && exec "$2" -c "$3" "$1"'
    command = [*alone, "sh", "-c", mount, "sh", tmp_path, sys.executable, code]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[:2] == ["saved 1", "failed 2"]
    assert "step-00000002: no space left" in said[2]
    assert said[3] == "['step-00000001']"


def test_a_kill_inside_a_save_costs_that_save_only(tmp_path):
    instants = random.Random(0)
    code = SAVES + "saves(sys.argv[1], [1_000_000] * 1000)\n"
    inside = 0
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        command = [sys.executable, "-c", code, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(2):
                process.stdout.readline()
            time.sleep(instants.uniform(0, 0.02))
            process.kill()
            said = ["saved 2", *process.stdout.read().splitlines()]
        finished = int(said[-1].split()[1])
        newest, path = list(find_checkpoints(folder).items())[-1]
        assert newest in (finished, finished + 1)
        target = {"model.a": torch.zeros(1_000_000)}
        assert load_checkpoint(path, target, ALONE).step == newest
        assert torch.equal(target["model.a"], torch.full((1_000_000,), float(newest)))
        inside += any((folder / "checkpoints").glob(".*.tmp"))
    assert inside  # most of the time a save is under way
