"""Let an OpenAI-compatible server continue solutions, through ``POST /v1/completions``.

The prompt is sent as token ids or as text and holds the whole solution so far, because a code call
pauses it in the middle of the assistant's turn, which chat endpoints cannot continue. The stop tag
of a code call is put back where the server cut it off. A request that fails is tried again with
growing pauses; one that keeps failing, or that the server refuses, costs its solution and no other:
it is named, counted and tried again by the next run. What concerns every request alike (a wrong
key, an unknown model) stops the stage.

The server's sampling is its own: seeds are sent, but equal bytes are promised by nobody.
"""

import logging
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from longrun.config.evaluation import GenerateConfig
from longrun.evaluation.generation.code_calls import CodeCalls, find_call
from longrun.evaluation.generation.endpoint_client import EndpointClient, EndpointError
from longrun.evaluation.generation.prompting import Prompter
from longrun.evaluation.generation.solutions import Failure, Solution

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the server wrote in one go."""

    text: str
    tokens: list[int] | None
    """None: the server does not say."""
    finish_reason: str
    stop_reason: str | int | None
    """The stop string or token; None: the server does not say, or its own end."""


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
        sent = self._config.endpoint
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": text,
            "max_tokens": solution.most_tokens - len(solution.tokens),
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            # Sent although they change nothing: a server may have other values of its own.
            "top_k": sent.top_k,
            "min_p": sent.min_p,
            "repetition_penalty": sent.repetition_penalty,
            # A seed of its own for every sample and every segment of it.
            "seed": int(solution.rng.integers(1 << 31)),
        }
        stops = [*([self._tag] if solution.problem.mode == "tir" else []), *sent.stop]
        if stops:
            body["stop"] = stops
        body = {name: value for name, value in (body | sent.body).items() if value is not None}
        read = partial(read_completion, vocabulary=self._prompter.vocabulary)
        try:
            completion: Completion = self._client.ask("completions", body, read)
        except EndpointError as error:
            if error.status not in (400, 422):
                raise
            raise EndpointError(f"{error}; {self._what_may_be_refused()}", error.status) from None
        return completion

    def _what_may_be_refused(self) -> str:
        advice = (
            "a server that does not know top_k, min_p or repetition_penalty needs endpoint.body"
        )
        if self._config.endpoint.send == "tokens":
            advice = f"a server that takes no token ids needs endpoint.send=text; {advice}"
        return advice

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


def read_completion(answer: Any, vocabulary: int = 1 << 31) -> Completion:
    """Check an answer to ``/v1/completions``; raises ``ValueError`` and its like for garbage."""
    choice = answer["choices"][0]
    text, reason = choice["text"], choice["finish_reason"]
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise ValueError(f"text {text!r:.40} with finish_reason {reason!r:.40}")
    text.encode()  # half of a surrogate pair is no text
    tokens = choice.get("token_ids")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        tokens = None
    elif not all(0 <= token < vocabulary for token in tokens):
        raise ValueError(f"a token id outside the vocabulary of {vocabulary}")
    stop = choice.get("stop_reason")
    return Completion(text, tokens, reason, stop if isinstance(stop, str | int) else None)
