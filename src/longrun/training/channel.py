"""What the starters of several nodes need of the network: messages, a free port, an interface.

A message is one JSON value on one line. Nothing here knows what messages mean.
"""

import fcntl
import json
import logging
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SIOCGIFADDR = 0x8915
log = logging.getLogger(__name__)


class LostError(Exception):
    """The other end of a connection is gone."""


@dataclass(slots=True)
class Channel:
    """JSON lines over one connection."""

    connection: socket.socket
    buffer: bytes = b""

    def __post_init__(self) -> None:
        """Notice within a minute that the other machine lost its power or its network."""
        if self.connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                self.connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; a lost connection shows when the answer is read."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            log.debug("a node left before it was told %s", message)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None: there was none within ``seconds``.

        Raises:
            LostError: the connection is gone.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.connection], [], [], left)[0]:
                return None
            try:
                data = self.connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise LostError
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            raise LostError from None
        if not isinstance(message, dict):
            raise LostError
        return message


def interface_towards(address: str) -> str | None:
    """Return the network interface that leads to ``address``; None: not known.

    Source: netdevice(7); no packet is sent.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                except OSError:
                    continue  # an interface without an address
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    except OSError:
        return None
    return None


def free_port(address: str) -> int:
    """Return a port that nobody uses at an address of this machine."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
