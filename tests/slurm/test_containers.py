"""A recipe in containers whose folders have other names inside, as without them."""

import sys
from pathlib import Path

import pytest
import yaml

from longrun import run_cmd
from longrun.errors import ConfigError

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("slurm")]
STAGES = {
    "problems": {
        "verb": "synthesize",
        "num_cot": 5,
        "num_tir": 5,
        "num_genselect": 5,
        "num_held_out": 2,
    },
    "tokenizer": {
        "verb": "train_tokenizer",
        "data": "${problems}/train/*.jsonl",
        "vocab_size": 300,
    },
}


@pytest.fixture
def lab(desk, slurm):
    """A folder that containers know as /workspace, and an image with the system's programs."""
    if "pyxis_double" not in (slurm.folder / "plugstack.conf").read_text():
        pytest.skip("NO CONTAINER TEST: no C compiler or no headers of Slurm (libslurm-dev)")
    image, folder = desk.folder / "image", desk.folder / "lab"
    folder.mkdir()
    (folder / "in").write_text("content\n")
    for name in ("usr", "lib", "lib64", "bin", "etc", "proc", "dev", "tmp"):
        (image / name).mkdir(parents=True)
    needed = [sys.base_prefix, sys.prefix, *(place for place in sys.path if Path(place).is_dir())]
    own = [place for place in dict.fromkeys(needed) if not place.startswith(("/usr", "/lib"))]
    desk.write_cluster(
        container_runtime="pyxis",
        containers={"nemo": str(image), "bare": "none"},
        container="nemo",
        mounts=[f"{folder}:/workspace", *own],
    )
    return folder


def test_status_logs_and_run_after_are_as_without_mounts(desk, lab):
    recipe = {"name": "boxed", "output_dir": "/workspace/boxed", "stages": STAGES}
    (desk.folder / "boxed.yaml").write_text(yaml.safe_dump(recipe))
    desk.longrun("run", "boxed.yaml")
    desk.wait_for("boxed", problems="done", tokenizer="done")
    assert (lab / "boxed/tokenizer/manifest.json").exists()
    for place in ("boxed", "boxed.yaml", "/workspace/boxed", str(lab / "boxed")):
        assert desk.longrun("status", place).count("done") == 2, place
    assert "done in" in desk.longrun("logs", "/workspace/boxed", "problems")
    assert desk.longrun("run", "boxed.yaml").count("up to date") == 2
    shown = desk.longrun("run_cmd", "--run_after=boxed", "--expname=later", "cat /workspace/in")
    assert "later: job" in shown
    desk.wait_for("later", later="done")
    assert desk.log("later") == "content\n"


def test_paths_may_be_named_as_outside_and_commands_start_anywhere(desk, lab, monkeypatch):
    monkeypatch.chdir(lab)
    inside = run_cmd("pwd; cat in", cluster=desk.cluster(), expname="here")
    monkeypatch.chdir("/")
    outside = run_cmd("pwd", cluster=desk.cluster(), expname="there")
    bare = run_cmd("pwd", cluster=desk.cluster(), expname="bare", container="bare")
    assert inside.wait().state == "done", inside.log()
    assert inside.log() == "/workspace\ncontent\n"
    assert outside.wait().state == "done"
    assert outside.log() == f"{outside.folder}\n"
    assert bare.wait().state == "done"
    assert bare.log() == "/\n"


def test_a_container_on_a_cluster_without_any_is_refused_with_what_to_do(desk):
    cluster = desk.write_cluster(containers={"nemo": "/images/nemo.sqsh"})
    with pytest.raises(ConfigError, match=r"`containers: \{nemo: none\}` in the cluster file"):
        run_cmd("true", cluster=cluster, container="nemo")
    cluster = desk.write_cluster(containers={"nemo": "none"})
    handle = run_cmd("echo ran", cluster=cluster, container="nemo", expname="plain")
    assert handle.wait().state == "done"
