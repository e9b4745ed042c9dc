"""The stage as a user starts it: real processes, one and two ranks, signals and kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from longrun.checkpoint.sharded import find_checkpoints
from longrun.errors import ConfigError, InputError, StaleError
from longrun.formats.plans import PackSet
from longrun.formats.stages.manifest import Manifest
from longrun.training import train as stage
from longrun.training.metrics import TIMING_FIELDS, read_metrics

STEPS = 12
LONG = {"max_steps": STEPS, "save_interval": 2, "validation_interval": 5, "verify": False}


def lines(folder):
    return [
        {key: value for key, value in line.items() if key not in TIMING_FIELDS}
        for line in read_metrics(folder)
    ]


def weights(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.fixture
def start():
    """Return ``start(world, folder)``: the stage in a process that can be killed as a whole."""
    started = []
    yield lambda *where, **settings: started.append(launch(*where, **settings)) or started[-1]
    for process in started:
        process.kill()
        process.communicate()


def launch(world, folder, **settings) -> subprocess.Popen:
    config = world.config(folder, **settings).model_dump(mode="json")
    code = (
        "import json, sys\n"
        "from longrun.config.training import TrainConfig\n"
        "from longrun.errors import LongrunError\n"
        "from longrun.training.train import run\n"
        "assert 'torch' not in sys.modules\n"
        "try: run(TrainConfig.parse(json.loads(sys.argv[1]), 'train'))\n"
        "except LongrunError as error: print(type(error).__name__, error); sys.exit(2)\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, json.dumps(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(process, folder, count: int) -> None:
    while len(read_metrics(folder)) < count and process.poll() is None:
        time.sleep(0.01)


def workers_of(process) -> list[int]:
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        return [int(pid) for pid in file.read().split()]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """An uninterrupted training by one process."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    stage.run(world.config(folder, **LONG | {"verify": True}))
    return folder


@pytest.fixture(scope="module")
def pair(world, tmp_path_factory):
    """An uninterrupted training by two processes that share every batch by its documents."""
    folder = tmp_path_factory.mktemp("runs") / "pair"
    settings = LONG | {"verify": True, "num_processes": 2, "balance": "documents"}
    stage.run(world.config(folder, **settings))
    return folder


@pytest.fixture(scope="module")
def sharded(world, tmp_path_factory):
    """An uninterrupted training by two processes that share the weights."""
    folder = tmp_path_factory.mktemp("runs") / "sharded"
    settings = LONG | {"verify": True, "num_processes": 2, "sharding": "full"}
    stage.run(world.config(folder, **settings))
    return folder


def test_every_step_of_several_processes_logs_how_evenly_it_was_dealt(alone, pair, sharded):
    trained = {
        folder: [line for line in read_metrics(folder) if "loss" in line]
        for folder in (alone, pair, sharded)
    }
    for line in trained[pair]:
        assert 1 <= line["modelled_imbalance"] <= line["measured_imbalance"] * 2
        assert 1 <= line["measured_imbalance"] <= 2
    assert all(line["modelled_imbalance"] >= 1 for line in trained[sharded])
    assert not any("measured_imbalance" in line for line in trained[sharded])
    assert not any("modelled_imbalance" in line for line in trained[alone])


@pytest.mark.parametrize("other", ["pair", "sharded"])
def test_the_trajectory_does_not_depend_on_the_number_of_processes(alone, other, request):
    folder = request.getfixturevalue(other)
    for one, two in zip(lines(alone), lines(folder), strict=True):
        numbers = [key for key in one if key.endswith(("loss", "norm"))]
        assert numbers
        for key in numbers:
            assert two[key] == pytest.approx(one[key], rel=2e-5), (one, two)
        exact = ("step", "lr", "tokens", "supervised_tokens", "packs", "epoch")
        assert [one.get(key) for key in exact] == [two.get(key) for key in exact]
    exported = [load_file(path / "final" / "model.safetensors") for path in (alone, folder)]
    for name, tensor in exported[0].items():
        assert tensor.sub(exported[1][name]).abs().max() < 1e-3


def test_the_output_is_a_finished_stage_with_a_model(world, alone):
    manifest = Manifest.read(alone)
    assert manifest.counts["steps"] == STEPS
    assert manifest.counts["loss"] == lines(alone)[-2]["loss"]
    assert manifest.ledger.kept == STEPS * 4
    assert list(find_checkpoints(alone)) == [2, 4, 6, 8, 10, 12]
    model = AutoModelForCausalLM.from_pretrained(alone / "final")
    assert model.generation_config.eos_token_id == [258]
    assert (alone / "final" / "conversation.json").exists()
    assert stage.run(world.config(alone, **LONG | {"verify": True})) == manifest


@pytest.mark.timeout(300)  # half a dozen starts of torch, slow when the machine is busy
@pytest.mark.parametrize(("num_processes", "reference"), [(1, "alone"), (2, "pair")])
def test_a_training_killed_at_random_instants_is_bitwise_the_uninterrupted_one(
    world, start, tmp_path, num_processes, reference, request
):
    random_instants = random.Random(num_processes)
    settings = LONG | {"num_processes": num_processes}
    if reference == "pair":
        settings |= {"balance": "documents"}
    kills = 0
    while True:
        process = start(world, tmp_path / "run", **settings)
        if kills < 2:
            wait_for_lines(process, tmp_path / "run", 2 + 4 * kills)
            time.sleep(random_instants.uniform(0, 0.15))
            process.kill()
        said = process.communicate()[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
    assert kills
    uninterrupted = request.getfixturevalue(reference)
    assert lines(tmp_path / "run") == lines(uninterrupted)
    assert weights(tmp_path / "run") == weights(uninterrupted)


def test_a_training_continues_under_another_version_of_the_program(
    world, alone, interrupt_after, tmp_path, monkeypatch
):
    interrupt_after(8, alone, tmp_path / "run")
    monkeypatch.setattr("longrun.__version__", "9.9.9")
    manifest = stage.run(world.config(tmp_path / "run", **LONG | {"verify": True}))
    assert manifest.version == "9.9.9"
    assert lines(tmp_path / "run") == lines(alone)
    assert weights(tmp_path / "run") == weights(alone)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_names_the_step(world, start, tmp_path, number):
    process = start(world, tmp_path / "run", **LONG | {"max_steps": 5000, "max_epochs": 5000})
    wait_for_lines(process, tmp_path / "run", 3)
    process.send_signal(number)
    said, errors = process.communicate()
    step = list(find_checkpoints(tmp_path / "run"))[-1]
    assert f"interrupted by {number.name}: saved at step {step}; run the same command" in said
    assert said.startswith("StoppedError")
    assert "Traceback" not in errors
    assert len(read_metrics(tmp_path / "run")) >= step >= 3


def test_a_training_continues_on_another_layout(world, start, tmp_path, alone):
    process = start(world, tmp_path / "run", **LONG, num_processes=2, sharding="full")
    wait_for_lines(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGUSR1)
    assert "interrupted by SIGUSR1: saved at step" in process.communicate()[0]
    newest = list(find_checkpoints(tmp_path / "run"))[-1]
    assert 3 <= newest < STEPS
    stage.run(world.config(tmp_path / "run", **LONG))
    for one, two in zip(lines(alone), lines(tmp_path / "run"), strict=True):
        key = "loss" if "loss" in one else "validation_loss"
        assert two[key] == pytest.approx(one[key], rel=2e-5)


def test_a_killed_worker_is_named_and_the_others_are_ended(world, start, tmp_path):
    process = start(
        world, tmp_path / "run", **LONG | {"max_steps": 5000, "max_epochs": 5000}, num_processes=2
    )
    wait_for_lines(process, tmp_path / "run", 2)
    workers = workers_of(process)
    os.kill(workers[1], signal.SIGKILL)
    said, _ = process.communicate()
    assert f"worker 1 of 2 (process {workers[1]}) was killed by SIGKILL" in said
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_workers_die_with_the_stage(world, start, tmp_path):
    process = start(
        world, tmp_path / "run", **LONG | {"max_steps": 5000, "max_epochs": 5000}, num_processes=2
    )
    wait_for_lines(process, tmp_path / "run", 1)
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_of_a_worker_arrives_as_its_own_class(world, tmp_path, num_processes, capfd):
    with pytest.raises(ConfigError, match=r"torch_varlen.*needs a CUDA device"):
        stage.run(
            world.config(tmp_path / "out", num_processes=num_processes, attention="torch_varlen")
        )
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_processes": 5},
            r"num_processes: 5 data-parallel .* the 4 packs of global_batch_size 4",
        ),
        (
            {"num_processes": 5, "global_batch_size": None, "global_batch_tokens": 30},
            r"num_processes: 5 data-parallel .* the [12]\S* packs of global_batch_tokens 30",
        ),
        (
            {"global_batch_size": None, "global_batch_tokens": 10**6, "max_epochs": 1},
            r"global_batch_tokens: 1000000 supervised tokens are more than 1 passes",
        ),
        (
            {"global_batch_size": 99, "max_epochs": 1},
            r"global_batch_size: 99 packs are more than 1 passes over \d+ packs",
        ),
        ({"optimizer": {"warmup_steps": 4}}, r"warmup_steps: 4 is not below the 4 steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_worker_starts(
    world, tmp_path, settings, message, monkeypatch
):
    monkeypatch.setattr(stage, "run_workers", None)
    with pytest.raises(ConfigError, match=message):
        stage.run(world.config(tmp_path, **settings))


def test_packs_that_fill_no_batch_are_named(world, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(stage, "run_workers", None)
    caplog.set_level("INFO")
    config = world.config(tmp_path, max_steps=None, max_epochs=1, global_batch_size=4)
    with pytest.raises(TypeError):  # where the workers would start
        stage.run(config)
    (line,) = [text for text in caplog.messages if "left out" in text]
    left = len(PackSet.open(config.packs).plan(0)) % 4
    assert line.startswith(f"train: {left} packs of the last pass are left out")


def test_documents_longer_than_the_positions_of_the_model_are_refused(build_world, tmp_path):
    own = build_world(tmp_path, max_positions=20)
    with pytest.raises(
        ConfigError, match=r"\(pack_size 64\) holds a document of \d+ tokens, above"
    ):
        stage.run(own.config(tmp_path / "out"))


def test_packs_of_another_tokenizer_are_refused(build_world, tmp_path):
    own = build_world(tmp_path)
    path = own.model / "tokenizer.json"
    (own.model / "manifest.json").unlink()  # no longer the output of a stage: edited by hand
    path.write_text(path.read_text().replace("<|im_start|>", "<|begin|>"))
    with pytest.raises(InputError, match=r"made with another tokenizer.*<\|begin\|>"):
        stage.run(own.config(tmp_path / "out"))


def test_a_training_without_packs_is_refused(build_world, tmp_path):
    own = build_world(tmp_path, num_documents=0, num_held_out=0)
    with pytest.raises(InputError, match=r"packs: holds no packs"):
        stage.run(own.config(tmp_path / "out"))


def test_a_finished_training_of_other_settings_is_not_continued(world, alone):
    with pytest.raises(StaleError, match=r"train\.seed 0 -> 1"):
        stage.run(world.config(alone, **LONG, seed=1))


def test_a_stop_before_the_first_step_saves_nothing(world, start, tmp_path):
    process = start(world, tmp_path / "run", **LONG)
    while not workers_of(process):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert "interrupted by SIGTERM: no step was finished; run the same command" in said
    assert find_checkpoints(tmp_path / "run") == {}


def test_compact_states_and_the_average_continue_on_another_layout(
    build_world, interrupt_after, tmp_path
):
    own = build_world(tmp_path, hidden_size=64, intermediate_size=64)
    optimizer = {"lr": 1e-2, "warmup_steps": 1, "states": "int8", "average_decay": 0.9}
    settings = LONG | {"optimizer": optimizer, "save_interval": 6}
    stage.run(own.config(tmp_path / "alone", **settings))
    cut = {"num_processes": 2, "sharding": "full"}
    stage.run(own.config(tmp_path / "cut", **settings, **cut))
    interrupt_after(6, tmp_path / "cut", tmp_path / "run")
    stage.run(own.config(tmp_path / "run", **settings))
    for one, two in zip(lines(tmp_path / "alone"), lines(tmp_path / "run"), strict=True):
        key = "loss" if "loss" in one else "validation_loss"
        # A code may fall on the other side of its border by rounding: 1 part in 100 of one moment.
        assert two[key] == pytest.approx(one[key], rel=2e-3)
    for name in ("final", "final-average"):
        one, two = (
            load_file(tmp_path / folder / name / "model.safetensors") for folder in ("alone", "run")
        )
        for key, tensor in one.items():
            assert tensor.sub(two[key]).abs().max() < 1e-2


@pytest.mark.timeout(300)  # three trainings, slow when the machine is busy
def test_split_weights_give_the_losses_of_whole_ones_and_can_be_resumed(
    world, interrupt_after, tmp_path
):
    settings = {"dtype": "bfloat16", "max_steps": 6, "save_interval": 3, "seed": 1}
    optimizer = {"lr": 1e-2, "warmup_steps": 1}
    stage.run(world.config(tmp_path / "whole", **settings, optimizer=optimizer))
    halves = settings | {"optimizer": optimizer | {"weights": "split"}}
    stage.run(world.config(tmp_path / "split", **halves))
    # With this seed no weight happens to lie at a tie, so not even rounding differs; with seed 0
    # one of the 8,144 does and comes out one unit in the last place apart.
    assert lines(tmp_path / "split") == lines(tmp_path / "whole")
    assert weights(tmp_path / "split") == weights(tmp_path / "whole")
    interrupt_after(3, tmp_path / "split", tmp_path / "run")
    stage.run(world.config(tmp_path / "run", **halves))
    assert lines(tmp_path / "run") == lines(tmp_path / "split")
    assert weights(tmp_path / "run") == weights(tmp_path / "split")
    for refused in ({"dtype": "float32"}, {"sharding": "full"}):
        with pytest.raises(ConfigError, match=r"weights split needs dtype bfloat16"):
            world.config(tmp_path / "other", **halves | refused)
