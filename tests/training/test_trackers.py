import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from longrun.errors import ConfigError
from longrun.training import trackers
from longrun.training.metrics import read_metrics
from longrun.training.worker import work


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Points by name, as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_numbers_of_the_file_also_after_a_resume(world, tmp_path):
    settings = {"tensorboard": True, "validation_interval": 2, "save_interval": 3, "max_steps": 5}
    work(world.config(tmp_path, **settings), lambda: len(read_metrics(tmp_path)) > 4)
    newest = tmp_path / "checkpoints" / "step-00000004"
    newest.rename(newest.with_name(".step-00000004.tmp"))
    work(world.config(tmp_path, **settings), lambda: False)
    found = scalars(tmp_path / "tensorboard")
    lines = read_metrics(tmp_path)
    for name in ("loss", "lr", "tokens_per_second", "peak_memory_bytes", "validation_loss"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in found[name]] == [step for step, _ in expected]
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in expected], rel=1e-6)
    assert {"validation_loss/cot", "validation_loss/tir", "data_wait_share"} <= set(found)


WANDB = """
import json, sys
from longrun.config.training import TrainConfig
from longrun.training.worker import work
config = TrainConfig.parse(json.loads(sys.argv[1]), "train")
work(config, lambda: False)
"""


@pytest.mark.timeout(300)  # the package starts a server of its own
def test_weights_and_biases_is_written_without_a_network(world, tmp_path):
    pytest.importorskip("wandb")
    config = world.config(tmp_path, wandb={"offline": True, "name": "one"}, max_steps=2)
    command = [sys.executable, "-c", WANDB, config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run_id = (tmp_path / "wandb-id").read_text()
    (file,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    content = file.read_bytes()
    assert b"grad_norm" in content
    assert b"supervised_tokens_per_second" in content
    assert b"longrun" in content


def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(world, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda package: None)
    trackers.check_trackers(world.config(tmp_path))
    with pytest.raises(ConfigError, match=r"tensorboard: .*pip install tensorboard"):
        trackers.check_trackers(world.config(tmp_path, tensorboard=True))
    with pytest.raises(ConfigError, match=r"wandb: .*pip install wandb"):
        trackers.check_trackers(world.config(tmp_path, wandb={}))
