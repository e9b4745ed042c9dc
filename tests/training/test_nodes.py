"""Several nodes on loopback: real starters, real workers, one outcome."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from longrun.errors import ConfigError, LaunchError, LostNodeError
from longrun.training import nodes
from longrun.training import train as stage
from longrun.training.channel import LostError, free_port
from longrun.training.metrics import read_metrics
from longrun.training.nodes import NodeAddress, read_address

VARIABLES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "2345"}
SETTINGS = {"max_steps": 12, "save_interval": 4, "verify": False, "num_nodes": 2}


def test_one_node_needs_no_variables_and_several_need_all():
    assert read_address(1, {}) == NodeAddress()
    assert read_address(2, VARIABLES) == NodeAddress(1, 2, "127.0.0.1", 2345)
    for name in VARIABLES:
        some = {key: value for key, value in VARIABLES.items() if key != name}
        with pytest.raises(LaunchError, match=f"num_nodes is 2, but {name} is not set"):
            read_address(2, some)


@pytest.mark.parametrize(
    ("num_nodes", "changes", "message"),
    [
        (3, {}, "num_nodes is 3, but this is node NODE_RANK=1 of NNODES=2"),
        (1, {}, "num_nodes is 1, but this is node NODE_RANK=1 of NNODES=2"),
        (2, {"NODE_RANK": "2"}, "NODE_RANK=2 of NNODES=2"),
        (2, {"MASTER_PORT": "http"}, "are numbers"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(num_nodes, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_address(num_nodes, {**VARIABLES, **changes})


@pytest.fixture
def start():
    """Return ``start(config, node, port)``: one node's starter as a process."""
    started = []

    def launch(config, node: int, port: int) -> subprocess.Popen:
        place = {"NNODES": "2", "NODE_RANK": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        code = (
            "import json, sys\n"
            "from longrun.config.training import TrainConfig\n"
            "from longrun.errors import LongrunError\n"
            "from longrun.training.train import run\n"
            "try: run(TrainConfig.parse(json.loads(sys.argv[1]), 'train'))\n"
            "except LongrunError as error:\n"
            "    print(type(error).__name__, error); sys.exit(error.exit_code)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(config.model_dump(mode="json"))],
            env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in place.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def wait_for_lines(folder, count: int, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while len(read_metrics(folder)) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.timeout(300)
def test_two_nodes_train_what_one_node_trains_stop_together_and_go_on(world, start, tmp_path):
    alone = tmp_path / "alone"
    stage.run(world.config(alone, **SETTINGS | {"num_nodes": 1, "num_processes": 2}))
    long = world.config(tmp_path / "run", **SETTINGS | {"max_steps": 400, "max_epochs": 400})
    port = free_port("127.0.0.1")
    pair = [start(long, node, port) for node in (1, 0)]
    wait_for_lines(tmp_path / "run", 3)
    pair[0].send_signal(signal.SIGUSR1)
    said = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [75, 75]
    assert said[0] == said[1]
    assert "saved at step" in said[0]
    config = world.config(tmp_path / "short", **SETTINGS)
    pair = [start(config, node, port) for node in (1, 0)]
    for process in pair:
        process.communicate()
    assert [process.returncode for process in pair] == [0, 0]
    final = "final/model.safetensors"
    assert (tmp_path / "short" / final).read_bytes() == (alone / final).read_bytes()
    again = [start(config, node, port) for node in (1, 0)]
    for process in again:
        process.communicate()
    assert [process.returncode for process in again] == [0, 0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_node_ends_the_others_and_asks_for_another_start(world, start, tmp_path, victim):
    config = world.config(tmp_path / "run", **SETTINGS | {"max_steps": 4000, "max_epochs": 4000})
    port = free_port("127.0.0.1")
    pair = [start(config, node, port) for node in (0, 1)]
    wait_for_lines(tmp_path / "run", 2)
    pair[victim].kill()
    survivor = pair[1 - victim]
    said, _ = survivor.communicate()
    assert survivor.returncode == 75
    assert f"LostNodeError node {victim} left without a word" in said


def test_an_error_of_node_0_is_the_error_of_all_nodes(world, start, tmp_path):
    config = world.config(tmp_path / "run", **SETTINGS, global_batch_size=1)
    port = free_port("127.0.0.1")
    pair = [start(config, node, port) for node in (0, 1)]
    said = [process.communicate()[0] for process in pair]
    assert said[0] == said[1]
    assert said[0].startswith("ConfigError train.num_processes")


def test_nodes_with_other_settings_and_strangers_are_sent_away(world, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "LAST_WORD_SECONDS", 0.2)
    config = world.config(tmp_path / "run", **SETTINGS)
    other = world.config(tmp_path / "run", **SETTINGS, seed=1)
    port = free_port("127.0.0.1")
    place = NodeAddress(0, 2, "127.0.0.1", port)
    leader = nodes.Peers(place, nodes._hash_of(config), nodes._listen(place))
    heard, callers = [], []

    def call() -> None:
        stranger = nodes._call(NodeAddress(7, 2, "127.0.0.1", port), "?")
        with pytest.raises(LostError):
            stranger.receive(10.0)
        heard.append("sent away")
        stranger.connection.close()
        callers.append(nodes._call(NodeAddress(1, 2, "127.0.0.1", port), nodes._hash_of(other)))

    caller = threading.Thread(target=call)
    caller.start()
    with pytest.raises(ConfigError, match="node 1 was started with other settings"):
        leader.begin()
    caller.join()
    assert heard == ["sent away"]
    callers[0].connection.close()
    leader.close()


def test_a_node_that_never_calls_is_named(world, monkeypatch):
    monkeypatch.setattr(nodes, "MEETING_SECONDS", 0.3)
    place = NodeAddress(0, 3, "127.0.0.1", free_port("127.0.0.1"))
    leader = nodes.Peers(place, "hash", nodes._listen(place))
    with pytest.raises(LaunchError, match=r"node 1, 2 of 3 did not call 127\.0\.0\.1"):
        leader.begin()
    leader.close()


def test_the_worst_outcome_tells(tmp_path):
    ranks = [nodes.as_outcome(error("x"))["severity"] for error in (ConfigError, LostNodeError)]
    assert ranks == [4, 3]
    nodes.raise_outcome(nodes.DONE)
    with pytest.raises(ConfigError, match="what"):
        nodes.raise_outcome(nodes.as_outcome(ConfigError("what")))
