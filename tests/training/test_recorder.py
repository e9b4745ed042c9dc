import json

import pytest
import torch

from longrun.checkpoint.model_folder import read_config
from longrun.nn.costs import ModelShape, effective_length, model_flops
from longrun.parallel.mesh import Mesh
from longrun.training.build import build_training
from longrun.training.metrics import TIMING_FIELDS, read_metrics
from longrun.training.recorder import peak_flops, peak_memory_bytes
from longrun.training.worker import work

ALONE = Mesh(0, 1, torch.device("cpu"), "none")
CUDA = Mesh(0, 1, torch.device("cuda", 0), "nccl")


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    config = world.config(folder, peak_flops=1e9)
    work(config, lambda: False)
    return config, [line for line in read_metrics(folder) if "loss" in line]


def test_every_step_has_its_speeds_shares_memory_and_time_left(trained):
    _, lines = trained
    for line in lines:
        assert line["tokens_per_second"] == pytest.approx(
            line["tokens"] / line["seconds"], rel=1e-3
        )
        supervised = line["supervised_tokens"] / line["seconds"]
        assert line["supervised_tokens_per_second"] == pytest.approx(supervised, rel=1e-3)
        assert 0 <= line["data_wait_share"] <= 1
        assert 50e6 < line["peak_memory_bytes"] <= peak_memory_bytes(ALONE.device)
        # One process has nobody to wait for.
        assert set(TIMING_FIELDS) - {"measured_imbalance"} <= set(line)
    assert lines[-1]["seconds_left"] == 0
    middle = sorted(line["seconds"] for line in lines[:2])
    assert lines[1]["seconds_left"] == pytest.approx(2 * sum(middle) / 2, abs=0.06)


def test_the_utilisation_counts_each_document_alone(trained, tmp_path, world):
    config, lines = trained
    training = build_training(config, ALONE)
    shape = ModelShape.from_hf(read_config(config.model))
    for step, line in enumerate(lines):
        lengths = [
            len(tokens)
            for pack in training.batches[step]
            for tokens, _ in training.packs.read(pack)
        ]
        assert sum(lengths) == line["tokens"]
        operations = sum(lengths) * model_flops(shape, effective_length(lengths))
        assert line["mfu"] == pytest.approx(operations / line["seconds"] / 1e9, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_of_a_known_gpu_is_that_of_its_maker(world, tmp_path, monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    narrow = world.config(tmp_path, dtype="bfloat16")
    assert peak_flops(narrow, CUDA) == peak
    assert peak_flops(narrow, ALONE) is None
    assert peak_flops(world.config(tmp_path), CUDA) is None
    assert peak_flops(world.config(tmp_path, peak_flops=5.0), CUDA) == 5.0


def test_without_a_known_peak_there_is_no_utilisation(world, tmp_path):
    work(world.config(tmp_path, max_steps=2), lambda: False)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "mfu" not in json.loads(text.splitlines()[0])
