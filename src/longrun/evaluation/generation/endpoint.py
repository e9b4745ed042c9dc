"""Let an OpenAI-compatible server continue solutions, through ``POST /v1/completions``.

The prompt is sent as token ids or as text and holds the whole solution so far, because a code call
pauses it in the middle of the assistant's turn, which chat endpoints cannot continue. The stop tag
of a code call is put back where the server cut it off. A request that fails is tried again with
growing pauses; one that keeps failing, or that the server refuses, costs its solution and no other:
it is named, counted and tried again by the next run. What concerns every request alike (a wrong
key, an unknown model) stops the stage.

The server's sampling is its own: seeds are sent, but equal bytes are promised by nobody.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from itertools import islice
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from longrun.config.evaluation import EndpointSettings, GenerateConfig
from longrun.errors import ResourceError
from longrun.evaluation.generation.code_calls import CodeCalls, find_call
from longrun.evaluation.generation.prompting import Prompter
from longrun.evaluation.generation.solutions import Failure, Solution

log = logging.getLogger(__name__)
_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_FOR_ALL = {
    401: "check the key",
    403: "check the key",
    404: "check url and model",
    405: "check url",
}
"""Answers that every request would get."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class EndpointError(Exception):
    """One request is given up; the text says why."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the server wrote in one go."""

    text: str
    tokens: list[int] | None
    """None: the server does not say."""
    finish_reason: str
    stop_reason: str | int | None
    """The stop string or token; None: the server does not say, or its own end."""


class EndpointClient:
    """Sends requests from several threads, within the rate limit, and tries again."""

    def __init__(
        self, url: str, settings: EndpointSettings, check_alive: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare for the server at ``url`` (``.../v1``); ``check_alive`` raises when it died."""
        self._url = url.rstrip("/")
        self._settings = settings
        self._check_alive = check_alive
        self._key = os.environ.get(settings.api_key_variable)
        # A server on this machine is never asked through a proxy.
        local = urlsplit(url).hostname in _LOOPBACK
        self._opener: OpenerDirector = build_opener(*([ProxyHandler({})] if local else []))
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
        reason = ""
        for attempt in range(self._settings.attempts):
            if attempt:
                self._check_alive()
                if self._given_up.wait(self._pause(attempt, reason)):
                    raise EndpointError("given up")
            self._wait_for_turn()
            try:
                return read(self._post(path, body))
            except HTTPError as error:
                reason = self._explain(error, path)
                if error.code not in _TRY_AGAIN:
                    raise EndpointError(reason) from None
            except (ValueError, KeyError, TypeError, IndexError) as error:
                reason = f"garbage ({type(error).__name__}: {error})"[:200]
            except (URLError, HTTPException, OSError) as error:
                reason = f"{type(error).__name__}: {error}"[:200]
        self._check_alive()
        raise EndpointError(f"{self._settings.attempts} attempts failed, the last with {reason}")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(f"{self._url}/{path}", json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=self._settings.timeout_seconds) as answer:
            return json.loads(answer.read())

    def _explain(self, error: HTTPError, path: str) -> str:
        with error:
            said = error.read(2000).decode("utf-8", "replace").strip()
        shown = " ".join(said.split())[:200]
        if error.code in _FOR_ALL:
            raise ResourceError(
                f"{self._url}/{path}: HTTP {error.code} ({shown}); {_FOR_ALL[error.code]}"
                " (generate.endpoint)"
            )
        wait = error.headers.get("Retry-After", "")
        return f"HTTP {error.code} ({shown})" + (f" retry-after={wait}" if wait.isdigit() else "")

    def _pause(self, attempt: int, reason: str) -> float:
        asked = re.search(r"retry-after=(\d+)$", reason)
        if asked:
            return min(float(asked[1]), _LONGEST_PAUSE)
        grown: float = min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
        return grown * random.uniform(0.5, 1.0)  # so that not all come back at the same moment

    def _wait_for_turn(self) -> None:
        if self._settings.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_at)
            self._next_at = turn + 60.0 / self._settings.requests_per_minute
        time.sleep(turn - now)


class EndpointDecoder:
    """Writes solutions as ``ContinuousDecoder`` does, by asking a server."""

    def __init__(
        self, client: EndpointClient, model: str, config: GenerateConfig, prompter: Prompter
    ) -> None:
        """Ask for the model that the server calls ``model``."""
        self._client = client
        self._model = model
        self._config = config
        self._prompter = prompter
        self._tag = prompter.conversation.code.end.rstrip("\n")
        self.stop_ids = frozenset({prompter.stop_id})
        self.failures: list[Failure] = []
        """Solutions that were given up, in the order in which they were."""

    def write(
        self, waiting: Iterator[Solution], calls: CodeCalls | None = None
    ) -> Iterator[Solution]:
        """Yield every solution when it has finished; those that fail are in ``failures``.

        Raises:
            ResourceError: no request can succeed.
        """
        asked: dict[Future[Any], Solution] = {}
        most, num_paused = self._config.endpoint.concurrency, 0
        going: list[Solution] = []
        threads = ThreadPoolExecutor(most)
        try:
            while True:
                answered = calls.collect(wait=False) if calls is not None else []
                num_paused -= len(answered)
                yield from (one for one in answered if one.finish is not None)
                going += [one for one in answered if one.finish is None]
                room = max(0, most - len(asked) - len(going) - num_paused)
                for solution in [*going, *islice(waiting, room)]:
                    asked[threads.submit(self._complete, solution)] = solution
                going = []
                if not asked and not num_paused:
                    return
                for solution in self._collect(asked, calls):
                    if solution.finish is not None or calls is None:
                        yield solution
                    elif self._has_call(solution):
                        calls.begin(solution)
                        num_paused += 1
                    else:
                        going.append(solution)
        finally:
            self._client.give_up()
            threads.shutdown(cancel_futures=True)

    def _collect(
        self, asked: dict[Future[Any], Solution], calls: CodeCalls | None
    ) -> list[Solution]:
        """Wait until a request or a code call has ended; return what requests have written."""
        ends: set[Future[Any]] = {*asked}
        if calls is not None:
            ends |= calls.running
        if calls is None or not calls.has_answers:
            futures.wait(ends, None, futures.FIRST_COMPLETED)
        written = []
        for future in [one for one in asked if one.done()]:
            solution = asked.pop(future)
            try:
                self._append(solution, future.result())
                written.append(solution)
            except EndpointError as error:
                log.warning(
                    "generate: %s sample %d: %s", solution.problem.id, solution.sample, error
                )
                self.failures.append(Failure(solution.problem.id, solution.sample, str(error)))
                if calls is not None:
                    calls.close(solution)
        return written

    def _complete(self, solution: Solution) -> Completion:
        text: list[int] | str = solution.text
        if self._config.endpoint.send == "text":
            text = self._prompter.decode(solution.text)
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": text,
            "max_tokens": solution.most_tokens - len(solution.tokens),
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            # A seed of its own for every sample and every segment of it.
            "seed": int(solution.rng.integers(1 << 31)),
        }
        if solution.problem.mode == "tir":
            body["stop"] = [self._tag]
        completion: Completion = self._client.ask("completions", body, read_completion)
        return completion

    def _append(self, solution: Solution, completion: Completion) -> None:
        tokens = completion.tokens
        if tokens is None or completion.text != self._prompter.decode(tokens):
            tokens = self._prompter.encode(completion.text)
        if self._stopped_at_tag(solution, completion):
            if not completion.text.endswith(self._tag):
                tokens = self._prompter.encode(completion.text + self._tag)
            solution.tokens += tokens
            if len(solution.tokens) >= solution.most_tokens and not self._has_call(solution):
                solution.finish = "length"
            return
        solution.tokens += tokens
        if completion.finish_reason == "length":
            solution.finish = "length"
        else:
            solution.tokens.append(self._prompter.stop_id)
            solution.finish = "stop"

    def _stopped_at_tag(self, solution: Solution, completion: Completion) -> bool:
        """Say whether the text ended at the end tag of a call, whether or not it was sent along.

        A tag that ends no call is text like any other: the solution goes on. A server that does not
        say why it stopped is believed to have stopped at the tag only where that completes a call.
        """
        if solution.problem.mode != "tir" or completion.finish_reason != "stop":
            return False
        if isinstance(completion.stop_reason, int):
            return False
        if completion.text.endswith(self._tag) or completion.stop_reason == self._tag:
            return True
        written = self._prompter.decode(solution.segment) + completion.text
        return find_call(written + self._tag, self._prompter.conversation.code) is not None

    def _has_call(self, solution: Solution) -> bool:
        written = self._prompter.decode(solution.segment)
        return find_call(written, self._prompter.conversation.code) is not None


def read_completion(answer: Any) -> Completion:
    """Check an answer to ``/v1/completions``; raises ``ValueError`` and its like for garbage."""
    choice = answer["choices"][0]
    text, reason = choice["text"], choice["finish_reason"]
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise ValueError(f"text {text!r:.40} with finish_reason {reason!r:.40}")
    tokens = choice.get("token_ids")
    if not (isinstance(tokens, list) and all(isinstance(token, int) for token in tokens)):
        tokens = None
    stop = choice.get("stop_reason")
    return Completion(text, tokens, reason, stop if isinstance(stop, str | int) else None)
