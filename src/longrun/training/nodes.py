"""Several machines train together: how their starters meet, and end with one outcome.

Every node runs the same command with torchrun's variables for nodes:

    NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=23456 longrun train ...
    NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 MASTER_PORT=23456 longrun train ...

Node 0 owns the output folder and listens at that address; the others call, again and again until
it answers. It tells them where the workers meet, hears how theirs ended, and tells everybody the
one outcome. A node whose connection breaks is lost, and that ends the training on all of them.

    node 1 -> node 0   {"node": 1, "settings": HASH}     I am here, with these settings
    node 0 -> node 1   {"begin": PORT}                   start your workers; they meet there
    node 1 -> node 0   {"ended": OUTCOME}                mine have ended
    node 0 -> node 1   {"end": true}                     some node failed: end yours
    node 0 -> node 1   {"outcome": OUTCOME}              this is how it ended; leave with it

See ``channel`` for how messages travel. This module never imports torch.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from longrun import errors
from longrun.config.training import EngineConfig
from longrun.errors import ConfigError, LaunchError, LongrunError, LostNodeError, StoppedError
from longrun.formats.stages import fingerprint
from longrun.training.channel import Channel, LostError, free_port

VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
MEETING_SECONDS = 900.0
"""How long nodes wait for each other: the slowest may still be starting its container."""
LAST_WORD_SECONDS = 60.0
"""How long the outcomes of the other nodes are waited for, once one node has failed."""
_RETRY_SECONDS = 0.5
log = logging.getLogger(__name__)

Outcome = dict[str, Any]
"""``{"severity": 0}`` done; otherwise also ``kind`` (class of the error) and ``message``. Of
several, the highest severity tells: 1 stopped, 2 died, 3 killed by a signal, 4 raised."""
DONE: Outcome = {"severity": 0}


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """This node among the nodes of a training."""

    node: int = 0
    num_nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    """Where node 0 listens."""


def read_address(num_nodes: int, environment: Mapping[str, str]) -> NodeAddress:
    """Read this node's address from torchrun's variables.

    Raises:
        ConfigError: they do not fit ``num_nodes`` or each other.
        LaunchError: they are needed and not set.
    """
    started = environment.get("NNODES", "1")
    if num_nodes == 1 and started == "1":
        return NodeAddress()
    missing = [name for name in VARIABLES if not environment.get(name)]
    if missing:
        raise LaunchError(
            f"train.num_nodes is {num_nodes}, but {', '.join(missing)} is not set: start it with"
            " `longrun run`, or set them on every node"
        )
    try:
        count, node, port = (int(environment[VARIABLES[index]]) for index in (0, 1, 3))
    except ValueError:
        shown = ", ".join(f"{name}={environment[name]}" for name in VARIABLES)
        raise ConfigError(f"{shown}: NNODES, NODE_RANK and MASTER_PORT are numbers") from None
    if count != num_nodes or not 0 <= node < count:
        raise ConfigError(
            f"train.num_nodes is {num_nodes}, but this is node NODE_RANK={node} of NNODES={count};"
            " make them fit"
        )
    return NodeAddress(node, count, environment["MASTER_ADDR"], port)


@dataclass(slots=True)
class Peers:
    """The other nodes, as the starter of this one sees them; alone there are none."""

    location: NodeAddress
    settings: str
    """Hash of the settings; nodes with others are refused."""
    listener: socket.socket | None = None
    channels: dict[int, Channel] = field(default_factory=dict)
    """Node -> connection: to every other node on node 0, to node 0 on the others."""
    ended: dict[int, Outcome] = field(default_factory=dict)
    told: Outcome | None = None
    """What node 0 said that the outcome is."""

    @property
    def leads(self) -> bool:
        """Whether this is node 0, which owns the output folder."""
        return self.location.node == 0

    def begin(self) -> int:
        """Meet the other nodes; return the port at which the workers of all nodes meet.

        Raises:
            AlreadyOverError: not on node 0; it said the outcome instead.
            LaunchError: a node is missing.
        """
        if self.leads:
            self._gather(MEETING_SECONDS)
            port = free_port(self.location.address)
            for channel in self.channels.values():
                channel.send({"begin": port})
            return port
        message = self._receive(MEETING_SECONDS)
        if "begin" in message:
            return int(message["begin"])
        raise AlreadyOverError

    def failed(self) -> bool:
        """Look, without waiting, whether another node asks for the end or has failed."""
        for node, channel in self.channels.items():
            try:
                message = channel.receive(0)
            except LostError:
                self.ended.setdefault(node, lost(node))
                continue
            if message is not None:
                self._take(node, message)
        return any(outcome["severity"] > 1 for outcome in self.ended.values())

    def settle(self, own: Outcome) -> Outcome:
        """Say how this node's workers ended; return the worst outcome of all nodes."""
        if not self.leads:
            self.channels[0].send({"ended": own})
            return own
        bad = own["severity"] > 1 or any(outcome["severity"] > 1 for outcome in self.ended.values())
        if bad:
            self._tell_all({"end": True})
        deadline = time.monotonic() + (LAST_WORD_SECONDS if bad else MEETING_SECONDS)
        while len(self.ended) < len(self.channels) and time.monotonic() < deadline:
            self.failed()
            time.sleep(0.05)
        return max([own, *self.ended.values()], key=lambda outcome: int(outcome["severity"]))

    def leave(self, outcome: Outcome) -> None:
        """On node 0, last of all: tell every node the outcome, also those still on their way."""
        if self.leads and self.location.num_nodes > 1:
            try:
                self._gather(MEETING_SECONDS if outcome["severity"] == 0 else LAST_WORD_SECONDS)
            except LongrunError as error:
                log.warning("%s", error)
            self._tell_all({"outcome": outcome})

    def hear_outcome(self) -> Outcome:
        """On the other nodes, last of all: return what node 0 says."""
        while self.told is None:
            self._take(0, self._receive(MEETING_SECONDS))
        return self.told

    def close(self) -> None:
        """Close every connection."""
        for channel in self.channels.values():
            channel.connection.close()
        if self.listener is not None:
            self.listener.close()

    def _take(self, node: int, message: Mapping[str, Any]) -> None:
        if "ended" in message:
            self.ended[node] = dict(message["ended"])
        if "end" in message:
            self.ended[node] = {"severity": 2, **as_died("another node failed")}
        if "outcome" in message:
            self.told = dict(message["outcome"])
            self.ended[node] = self.told

    def _tell_all(self, message: Mapping[str, Any]) -> None:
        for channel in self.channels.values():
            channel.send(message)

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            message = self.channels[0].receive(seconds)
        except LostError:
            raise LostNodeError(_left(0)) from None
        if message is None:
            raise LaunchError(f"node 0 said nothing for {seconds:.0f} s; see its log")
        if "outcome" in message:
            self.told = dict(message["outcome"])
        return message

    def _gather(self, seconds: float) -> None:
        """Accept nodes until all are here."""
        assert self.listener is not None or self.location.num_nodes == 1
        deadline = time.monotonic() + seconds
        while len(self.channels) < self.location.num_nodes - 1:
            assert self.listener is not None
            self.listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = self.listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, self.location.num_nodes)) - set(self.channels))
                raise LaunchError(
                    f"node {', '.join(map(str, missing))} of {self.location.num_nodes} did not call"
                    f" {self.location.address}:{self.location.port} within {seconds:.0f} s;"
                    " see its log"
                ) from None
            self._admit(Channel(connection))

    def _admit(self, channel: Channel) -> None:
        """Take a caller for a node if it is one; others (port scanners) are sent away."""
        try:
            hello = channel.receive(5.0) or {}
        except LostError:
            hello = {}
        node = hello.get("node")
        if not isinstance(node, int) or not 0 < node < self.location.num_nodes:
            channel.connection.close()
        elif hello.get("settings") != self.settings:
            error = f"node {node} was started with other settings or another version than node 0"
            self.channels[node] = channel
            raise ConfigError(f"{error}; start the same command everywhere")
        else:
            self.channels[node] = channel


class AlreadyOverError(Exception):
    """Node 0 says the outcome although this node's workers never began."""


@contextmanager
def join_nodes(config: EngineConfig) -> Iterator[Peers]:
    """Take this node's address; on node 0 tell the others how the block ended.

    Raises:
        ConfigError: see ``read_address``.
        LaunchError: the address cannot be used, or node 0 does not answer.
    """
    location = read_address(config.num_nodes, os.environ)
    peers = Peers(location, _hash_of(config))
    try:
        if location.num_nodes > 1 and peers.leads:
            peers.listener = _listen(location)
        elif not peers.leads:
            peers.channels[0] = _call(location, peers.settings)
        outcome = {"severity": 2, **as_died("node 0 ended with an error of its own")}
        try:
            yield peers
            outcome = DONE
        except LongrunError as error:
            outcome = as_outcome(error)
            raise
        finally:
            peers.leave(outcome)
    finally:
        peers.close()


def as_outcome(error: LongrunError) -> Outcome:
    """Write an error of the program as an outcome."""
    lost = 3 if isinstance(error, LostNodeError) else 4
    severity = 1 if isinstance(error, StoppedError) else lost
    return {"severity": severity, "kind": type(error).__name__, "message": str(error)}


def as_died(message: str) -> Outcome:
    """Write the end of a node as an outcome, without its severity."""
    return {"kind": "LaunchError", "message": message}


def lost(node: int) -> Outcome:
    """Return the outcome of a node that left without a word."""
    return {"severity": 3, "kind": "LostNodeError", "message": _left(node)}


def raise_outcome(outcome: Outcome) -> None:
    """Raise the error that an outcome tells of, as its own class; nothing for a good one."""
    if outcome["severity"]:
        kind = getattr(errors, str(outcome["kind"]), LongrunError)
        raise kind(str(outcome["message"]))


def _hash_of(config: EngineConfig) -> str:
    from longrun import __version__

    return fingerprint.of_value({"config": config.model_dump(mode="json"), "v": __version__})


def _listen(location: NodeAddress) -> socket.socket:
    deadline = time.monotonic() + 30.0
    while True:
        try:
            return socket.create_server(
                (location.address, location.port), backlog=location.num_nodes
            )
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"node 0 cannot listen at {location.address}:{location.port}"
                    f" ({error.strerror}); set MASTER_ADDR to an address of"
                    " this machine and MASTER_PORT to a free port"
                ) from None
            time.sleep(_RETRY_SECONDS)


def _call(location: NodeAddress, settings: str) -> Channel:
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            connection = socket.create_connection((location.address, location.port), timeout=10.0)
            connection.settimeout(None)
            channel = Channel(connection)
            channel.send({"node": location.node, "settings": settings})
            return channel
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"node {location.node}: node 0 does not answer at"
                    f" {location.address}:{location.port}"
                    f" ({error}); see its log"
                ) from None
            time.sleep(_RETRY_SECONDS)


def _left(node: int) -> str:
    return (
        f"node {node} left without a word (was it lost?); the other nodes were ended. Run the same"
        " command to continue from the last checkpoint"
    )
