"""The verbs as Python functions, on this machine."""

import json

import pytest
import yaml

import longrun
from longrun import prepare, wrap_arguments
from longrun.config.cluster import Cluster
from longrun.errors import ConfigError, LaunchError
from longrun.launch.verbs import start_verb

HERE = Cluster(executor="local")
SMALL = {"num_cot": 5, "num_tir": 5, "num_genselect": 5, "num_held_out": 1}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_verb_is_an_experiment_that_later_ones_wait_for(here):
    problems = start_verb(
        "synthesize",
        ctx=wrap_arguments("num_cot=5 num_tir=5"),
        cluster=HERE,
        expname="problems",
        log_dir="logs",
        partition="batch",
        output_dir="problems",
        num_genselect=5,
        num_held_out=1,
    )
    assert {name: state.state for name, state in problems.states().items()} == {
        "synthesize": "done"
    }
    assert problems.notes == ("partition has no effect here: this machine has none",)
    assert "synthesize" in (here / "logs/synthesize.log").read_text()
    tokenizer = start_verb(
        "train_tokenizer",
        cluster=HERE,
        expname="tokenizer",
        run_after="problems",
        data=["problems/train/cot.jsonl"],
        vocab_size=400,
        output_dir="tokenizer",
    )
    assert tokenizer.wait()["train_tokenizer"].state == "done"
    graph = json.loads((here / "runs/tokenizer/graph.json").read_text())
    assert graph["jobs"]["train_tokenizer"][0].endswith("problems/jobs/synthesize")


def test_work_that_fails_raises_with_the_reason_and_the_log():
    with pytest.raises(LaunchError, match="matches no file"):
        prepare(cluster=HERE, expname="data", data="none-*.jsonl", tokenizer="t", output_dir="d")


def test_an_unknown_setting_or_experiment_is_refused():
    with pytest.raises(ConfigError, match="did you mean tokenizer"):
        prepare(cluster=HERE, data="a.jsonl", tokeniser="t", tokenizer="t", output_dir="d")
    with pytest.raises(ConfigError, match="no experiment 'before'"):
        start_verb("synthesize", cluster=HERE, run_after="before", output_dir="p", **SMALL)


def test_a_cluster_behind_ssh_is_for_command_lines(here):
    folder = here / "cluster_configs"
    folder.mkdir()
    ssh = {"host": "login", "folder": "/home/me/work"}
    cluster = {"executor": "slurm", "job_dir": "/runs", "ssh": ssh}
    (folder / "far.yaml").write_text(yaml.safe_dump(cluster))
    with pytest.raises(ConfigError, match="run this program on login"):
        start_verb("synthesize", cluster="far", output_dir="p", **SMALL)
    with pytest.raises(ConfigError, match="run this program on login"):
        longrun.run_cmd(wrap_arguments("true"), cluster="far")


@pytest.mark.parametrize(
    "name",
    [
        "prepare",
        "merge",
        "pack",
        "train",
        "average",
        "convert",
        "convert_packs",
        "generate",
        "evaluate",
    ],
)
def test_every_verb_of_the_interface_is_there_and_checks_its_settings(name):
    with pytest.raises(ConfigError, match=name):
        getattr(longrun, name)(cluster=HERE, no_such_setting=1)
