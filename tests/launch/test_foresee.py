"""A job that must fail is refused before it waits for its turn."""

import json

import pytest

from longrun.config.cluster import Cluster
from longrun.config.recipe import resolve
from longrun.errors import ConfigError, InputError
from longrun.launch.foresee import check_inputs, foresee, missing_inputs

CLUSTER = Cluster.parse({"executor": "slurm", "job_dir": "/runs", "python": "python3"}, "x")
MODEL = {
    "model_type": "qwen2",
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def recipe(tmp_path, *overrides):
    (tmp_path / "base").mkdir(exist_ok=True)
    (tmp_path / "base/config.json").write_text(json.dumps(MODEL))
    stages = {
        "train": {"packs": str(tmp_path / "packs"), "model": str(tmp_path / "base")},
        "average": {"checkpoints": "${train}"},
    }
    raw = {"name": "small", "output_dir": str(tmp_path / "out"), "stages": stages}
    return resolve(raw, list(overrides), "small")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.tensor_parallel=3"], r"stage train: tensor 3 x context 1 do not divide 1 ranks"),
        (
            ["train.tensor_parallel=4", "train.num_processes=4"],
            r"tensor 4 does not divide the 2 key-value heads; the nearest legal layout is",
        ),
        (
            ["train.model=/not/there/yet", "train.context_parallel=2", "train.num_nodes=3"],
            r"tensor_parallel 1 x context_parallel 2 do not divide 3 processes",
        ),
        (
            ["train.num_processes=8", "train.num_nodes=2"],
            r"16 data-parallel processes are more than the 8 packs of global_batch_size",
        ),
        (
            ["train.max_steps=10", "train.optimizer.warmup_steps=10"],
            r"optimizer\.warmup_steps 10 is not below max_steps 10",
        ),
        (["train.max_steps=10", "train.keep_steps=[5,11]"], r"keep_steps: 11 is after max_steps"),
        (
            ["train.max_steps=10", "average.steps=[5,20]"],
            r"stage average: steps: 20 is after the last step of train, whose max_steps is 10",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_must_fail_is_refused_when_it_is_submitted(tmp_path, overrides, message):
    made = recipe(tmp_path, *overrides)
    with pytest.raises(ConfigError, match=message):
        foresee(CLUSTER, made, made.stages)


def test_what_can_work_is_not_refused(tmp_path):
    made = recipe(
        tmp_path, "train.num_processes=2", "train.tensor_parallel=2", "train.max_steps=20",
        "train.optimizer.warmup_steps=19", "train.keep_steps=[20]", "average.steps=[20]",
    )  # fmt: skip
    foresee(CLUSTER, made, made.stages)


def test_a_package_is_looked_for_where_the_job_will_run(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = recipe(tmp_path, "train.tensorboard=true")
    foresee(CLUSTER, made, made.stages)
    own = Cluster.parse({"executor": "slurm", "job_dir": "/runs"}, "x")
    with pytest.raises(ConfigError, match=r"tensorboard: the package is not installed"):
        foresee(own, made, made.stages)


def test_what_no_stage_makes_must_be_there(tmp_path):
    made = recipe(tmp_path)
    assert missing_inputs(made, made.stages) == [
        f"stage train: packs: {tmp_path}/packs does not exist"
    ]
    with pytest.raises(InputError, match=r"packs does not exist; correct it, or .* --run_after"):
        check_inputs(made, made.stages)
    (tmp_path / "packs").mkdir()
    check_inputs(made, made.stages)
