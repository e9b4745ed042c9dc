"""Ask an OpenAI-compatible server: within the rate limit, again after failures, never for ever.

One request is bounded as a whole by ``timeout_seconds``: a server that sends a byte a second does
not hold it up longer. An answer has at most 64 MB. A redirect is followed only where it asks for
the same request (307, 308) at the same place, so that neither the key nor a prompt reaches a host
that nobody named, and no answer from there becomes a solution.
"""

import http.client
import json
import os
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from longrun.config.evaluation import EndpointSettings
from longrun.errors import ConfigError, ResourceError

_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_FOR_ALL = {
    301: "set url to the address it names",
    302: "set url to the address it names",
    303: "set url to the address it names",
    307: "set url to the address it names",
    308: "set url to the address it names",
    401: "check the key",
    403: "check the key",
    404: "check url and model",
    405: "check url",
}
"""Answers that every request would get."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_MOST_BYTES = 64 << 20
_CHUNK = 1 << 16


class EndpointError(Exception):
    """One request is given up; the text says why, ``status`` what the server answered."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


class EndpointClient:
    """Sends requests from several threads, within the rate limit, and tries again."""

    def __init__(
        self, url: str, settings: EndpointSettings, check_alive: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare for the server at ``url`` (``.../v1``); ``check_alive`` raises when it died.

        Raises:
            ConfigError: the key cannot stand in a header.
        """
        self._url = url.rstrip("/")
        self._settings = settings
        self._check_alive = check_alive
        self._key = _read_key(settings.api_key_variable)
        # A server on this machine is never asked through a proxy.
        local = urlsplit(url).hostname in _LOOPBACK
        self._opener: OpenerDirector = build_opener(
            _SameRequest(), _Http(), _Https(), *([ProxyHandler({})] if local else [])
        )
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Try nothing again from now on: nobody waits for the answers."""
        self._given_up.set()

    def ask(self, path: str, body: dict[str, Any], read: Callable[[Any], Any]) -> Any:
        """Post ``body`` and return ``read(answer)``; ``read`` raises ``ValueError`` for garbage.

        Raises:
            EndpointError: every attempt failed, or this request was refused.
            ResourceError: every request would be refused, or the server died.
        """
        reason, asked_pause = "", None
        for attempt in range(self._settings.attempts):
            if attempt:
                self._check_alive()
                if self._given_up.wait(_pause(attempt, asked_pause)):
                    raise EndpointError("given up")
            self._wait_for_turn()
            asked_pause = None
            try:
                return read(self._post(path, body))
            except HTTPError as error:
                reason = self._explain(error, path)
                if error.code not in _TRY_AGAIN:
                    raise EndpointError(reason, error.code) from None
                asked_pause = read_retry_after(error.headers.get("Retry-After", ""))
            except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
                reason = f"garbage ({type(error).__name__}: {_printable(str(error))})"[:200]
            except (URLError, HTTPException, OSError) as error:
                reason = f"{type(error).__name__}: {_printable(str(error))}"[:200]
        self._check_alive()
        raise EndpointError(f"{self._settings.attempts} attempts failed, the last with {reason}")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(f"{self._url}/{path}", json.dumps(body).encode(), headers)
        seconds = self._settings.timeout_seconds
        with _bounded(seconds):
            try:
                with self._opener.open(request, timeout=seconds) as answer:
                    content = _read(answer)
            except HTTPError as error:
                with error, suppress(HTTPException, OSError):
                    error.msg = error.read(2000).decode("utf-8", "replace")
                raise
        return json.loads(content, parse_constant=_refuse_constant)

    def _explain(self, error: HTTPError, path: str) -> str:
        shown = " ".join(_printable(error.msg).split())[:200]
        if error.code in _FOR_ALL:
            place = _printable(error.headers.get("Location") or "")[:200]
            redirect = f", a redirect to {place}, which is not followed" if place else ""
            raise ResourceError(
                f"{self._url}/{path}: HTTP {error.code} ({shown}){redirect};"
                f" {_FOR_ALL[error.code]} (generate.endpoint)"
            )
        return f"HTTP {error.code} ({shown})"

    def _wait_for_turn(self) -> None:
        if self._settings.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_at)
            self._next_at = turn + 60.0 / self._settings.requests_per_minute
        time.sleep(turn - now)


def read_retry_after(header: str) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, as a number or a date; None: neither."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        until = parsedate_to_datetime(header)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)


def _pause(attempt: int, asked: float | None) -> float:
    if asked is not None:
        return min(asked, _LONGEST_PAUSE)
    grown: float = min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
    return grown * random.uniform(0.5, 1.0)  # so that not all come back at the same moment


def _read_key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"the environment variable {variable} (generate.endpoint.api_key_variable) holds signs"
            " that no key has, such as spaces inside, line ends or quotation marks; set it anew"
        )
    return key


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _read(answer: Any) -> bytes:
    """Read all of a bounded answer; whatever length it announced."""
    content = bytearray()
    while chunk := answer.read1(_CHUNK):
        content += chunk
        if len(content) > _MOST_BYTES:
            raise ValueError(f"an answer of more than {_MOST_BYTES >> 20} MB")
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return bytes(content)


_thread = threading.local()


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Shut the connection of this thread after ``seconds``, however lively it is."""
    sockets: list[socket.socket] = _thread.__dict__.setdefault("open", [])
    late = threading.Event()

    def shut() -> None:
        late.set()
        for one in list(sockets):
            with suppress(OSError):  # it is closed already
                one.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
        if late.is_set():  # an answer that was cut off may look like one that ended
            raise TimeoutError
    except (HTTPException, OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            raise  # its status is known
        if late.is_set():
            raise TimeoutError(f"no whole answer within {seconds:g} seconds") from None
        raise
    finally:
        timer.cancel()
        sockets.clear()


class _Watched(http.client.HTTPConnection):
    """A connection that ``_bounded`` can shut."""

    def connect(self) -> None:
        super().connect()
        _thread.open.append(self.sock)


class _WatchedSafely(http.client.HTTPSConnection):
    """The same, encrypted."""

    def connect(self) -> None:
        super().connect()
        _thread.open.append(self.sock)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: Request) -> Any:
        return self.do_open(_Watched, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: Request) -> Any:
        return self.do_open(_WatchedSafely, req)


class _SameRequest(urllib.request.HTTPRedirectHandler):
    """Follows a redirect that repeats the request at the same scheme, host and port."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> Request | None:
        """Return the request to send, None to treat the answer as an error."""
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        if code not in (307, 308) or (here.scheme, here.netloc) != (there.scheme, there.netloc):
            return None
        return Request(newurl, req.data, dict(req.header_items()))
