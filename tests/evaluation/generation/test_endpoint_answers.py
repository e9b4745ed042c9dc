"""Servers that answer from a list: ends of code calls, garbage, redirects, keys."""

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longrun.config.evaluation import EndpointSettings, GenerateConfig
from longrun.errors import ConfigError, ResourceError
from longrun.evaluation.generation.endpoint import read_completion
from longrun.evaluation.generation.endpoint_client import (
    EndpointClient,
    EndpointError,
    read_retry_after,
)
from longrun.evaluation.generation.generate import run
from longrun.formats.predictions import read_predictions

ROW = {"problem": "Find 6 * 7.", "expected_answer": "42", "total_code_executions": 2}


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr("longrun.evaluation.generation.endpoint_client._FIRST_PAUSE", 0.01)


def completion(text, reason="stop", **more):
    return json.dumps({"choices": [{"text": text, "finish_reason": reason, **more}]}).encode()


@pytest.fixture
def serve():
    """Start a server that answers with ``answers`` in turn, the last one for ever."""
    servers = []

    def start(*answers):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                asked.append((dict(self.headers), body))
                answer = answers[min(len(asked), len(answers)) - 1]
                if callable(answer):
                    answer(self)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def configure(tmp_path, write_benchmark, random_model):
    path = write_benchmark([ROW], "tir.jsonl")

    def make(url, mode="tir", endpoint=None, **options):
        values = {
            "output_dir": str(tmp_path / "out"),
            "models": {"m": str(random_model)},
            "benchmarks": [{"name": "b", "path": str(path), "mode": mode}],
            "max_tokens": 300,
            "sandbox": {"isolation": "process"},
            "engine": "endpoint",
            "endpoint": {"attempts": 2, "url": url} | (endpoint or {}),
        }
        return GenerateConfig.parse(values | options, "generate")

    return make


def written(config):
    run(config)
    (row,) = read_predictions(config.output_dir / "m" / "b.jsonl")
    return row


def test_an_end_tag_that_ends_no_call_is_text_and_the_solution_goes_on(serve, configure):
    tag = "</tool_call>"
    url, asked = serve(
        completion("the tag ", stop_reason=tag),
        completion(f" and {tag}"),
        completion(" ends it. \\boxed{1}"),
    )
    row = written(configure(url))
    assert row.generation == f"the tag {tag} and {tag} ends it. \\boxed{{1}}"
    assert (row.finish, row.code_calls, len(asked)) == ("stop", 0, 3)
    assert all(body["stop"] == [tag] for _, body in asked)


def test_a_call_without_newlines_is_run_and_one_in_two_pieces_too(serve, configure):
    url, _ = serve(
        completion("<tool_call>print(6 * 7)", stop_reason=None),
        completion("so </tool_call> or <tool_call>\r\nprint('</tool_call>", stop_reason=None),
        completion("it is 42", stop_reason=None),
    )
    row = written(configure(url))
    assert "```output\n42\n```" in row.generation
    assert "SyntaxError: unterminated string literal" in row.generation
    assert (row.finish, row.code_calls, row.code_errors) == ("stop", 2, 1)


def test_end_tags_without_end_reach_the_bound(serve, configure):
    url, _ = serve(completion("", stop_reason="</tool_call>"))
    row = written(configure(url, max_tokens=40))
    assert row.finish == "length"


def raw(content, pause=0.0, times=1):
    """Return an answer that writes ``content`` as it is, ``times`` times with pauses."""

    def write(handler):
        handler.close_connection = True
        for _ in range(times):
            try:
                handler.wfile.write(content)
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(pause)

    return write


def redirect(status, place):
    def write(handler):
        handler.send_response(status)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return write


HEAD = b"HTTP/1.0 200 OK\r\n"
GARBAGE = {
    "half of a pair": rb'{"choices": [{"text": "\ud800", "finish_reason": "stop"}]}',
    "a token beyond the vocabulary": completion("x", token_ids=[10**9]),
    "a negative token": completion("x", token_ids=[-5]),
    "digits": b'{"choices": [{"text": "x", "finish_reason": "stop", "token_ids": ['
    + b"1" * 5000
    + b"]}]}",
    "deep": b"[" * 200_000,
    "NaN": b'{"choices": [{"text": "x", "finish_reason": "stop", "logprobs": NaN}]}',
    "infinity": b'{"choices": [{"text": "x", "finish_reason": "stop", "x": -Infinity}]}',
    "nothing": b"",
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "no choice": b'{"choices": []}',
    "choices as text": b'{"choices": "text"}',
    "text as a number": completion(5),
    "text as null": completion(None),
    "an unknown end": completion("x", "tool_calls"),
    "an end as a list": completion("x", ["stop"]),
    "bytes": bytes(range(256)) * 10,
    "no text of this encoding": b"\xff\xfe{}",
    "a page": b"<html><script>alert(1)</script></html>",
    "an absurd length": raw(HEAD + b"Content-Length: 99999999999\r\n\r\n{}"),
    "no length that is a number": raw(HEAD + b"Content-Length: many\r\n\r\n{}"),
    "chunks that lie": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\nab"),
    "another protocol": raw(b"SSH-2.0-OpenSSH\r\n"),
    "a long header": raw(HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n"),
    "many headers": raw(HEAD + b"X: y\r\n" * 1000 + b"\r\n{}"),
    "nothing at all": raw(b""),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_asked_for_again_then_named(serve, name):
    url, asked = serve(GARBAGE[name])
    client = EndpointClient(url, EndpointSettings(attempts=2, timeout_seconds=10))
    with pytest.raises(EndpointError, match="2 attempts failed, the last with") as failure:
        client.ask("completions", {}, partial(read_completion, vocabulary=1000))
    assert len(asked) == 2
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) < 300


@pytest.mark.parametrize(
    "answer",
    [
        raw(HEAD + b"\r\n" + b" ", pause=0.2, times=1),
        raw(b" ", pause=0.2, times=100),
        raw(HEAD[:9], pause=30),
        raw(HEAD + b"X: y\r\n", pause=0.2, times=100),
        raw(HEAD + b"\r\n" + b" " * 10, pause=30),
    ],
)
def test_the_time_limit_is_that_of_the_whole_request(serve, answer):
    url, _ = serve(answer)
    client = EndpointClient(url, EndpointSettings(attempts=1, timeout_seconds=1))
    began = time.monotonic()
    with pytest.raises(EndpointError):
        client.ask("completions", {}, read_completion)
    assert time.monotonic() - began < 6


def test_an_answer_that_trickles_is_cut_off_and_says_so(serve):
    url, _ = serve(trickle)
    client = EndpointClient(url, EndpointSettings(attempts=1, timeout_seconds=1))
    began = time.monotonic()
    with pytest.raises(EndpointError, match="no whole answer within 1 seconds"):
        client.ask("completions", {}, read_completion)
    assert time.monotonic() - began < 6


def test_a_refusal_that_trickles_is_cut_off_and_known_by_its_status(serve):
    def refuse(handler):
        raw(b"HTTP/1.0 400 Bad\r\n\r\nno")(handler)
        raw(b" ", pause=0.2, times=100)(handler)

    url, _ = serve(refuse)
    client = EndpointClient(url, EndpointSettings(attempts=3, timeout_seconds=1))
    began = time.monotonic()
    with pytest.raises(EndpointError, match="HTTP 400") as failure:
        client.ask("completions", {}, read_completion)
    assert failure.value.status == 400
    assert time.monotonic() - began < 6


def trickle(handler):
    raw(HEAD + b"\r\n")(handler)
    raw(b" ", pause=0.2, times=100)(handler)


def test_an_answer_without_end_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr("longrun.evaluation.generation.endpoint_client._MOST_BYTES", 1 << 20)

    def flood(handler):
        raw(HEAD + b"\r\n")(handler)
        raw(b" " * (1 << 16), times=10_000)(handler)

    url, _ = serve(flood)
    client = EndpointClient(url, EndpointSettings(attempts=1, timeout_seconds=60))
    with pytest.raises(EndpointError, match="more than 1 MB"):
        client.ask("completions", {}, read_completion)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["http://localhost:{port}/v1/completions", "file:///etc/passwd"])
def test_no_redirect_takes_key_or_prompt_elsewhere(serve, monkeypatch, status, place):
    monkeypatch.setenv("LONGRUN_API_KEY", "sk-secret")
    other, seen = serve(completion("from there"))
    port = other.rpartition(":")[2].partition("/")[0]
    url, _ = serve(redirect(status, place.format(port=port)))
    client = EndpointClient(url, EndpointSettings(attempts=2))
    with pytest.raises(ResourceError, match=r"a redirect to .*not followed; set url") as failure:
        client.ask("completions", {"prompt": "p"}, read_completion)
    assert seen == []
    assert "sk-secret" not in str(failure.value)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_at_the_same_server_repeats_the_request(serve, monkeypatch, status):
    monkeypatch.setenv("LONGRUN_API_KEY", "sk-secret")
    url, asked = serve(redirect(status, "/v1/other"), completion("there"))
    client = EndpointClient(url, EndpointSettings(attempts=1))
    assert client.ask("completions", {"prompt": "p"}, read_completion).text == "there"
    assert [body for _, body in asked] == [{"prompt": "p"}] * 2
    assert {headers["Authorization"] for headers, _ in asked} == {"Bearer sk-secret"}


def test_redirects_without_end_are_an_error(serve):
    url, asked = serve(redirect(307, "/v1/completions"))
    with pytest.raises((EndpointError, ResourceError)):
        EndpointClient(url, EndpointSettings(attempts=1)).ask("completions", {}, read_completion)
    assert len(asked) < 20


def test_space_around_a_key_is_no_part_of_it(serve, monkeypatch):
    monkeypatch.setenv("LONGRUN_API_KEY", " sk-secret\n")
    url, asked = serve(completion("x"))
    EndpointClient(url, EndpointSettings()).ask("completions", {}, read_completion)
    assert asked[0][0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("key", ["sk-\u2019secret", "sk-\nsecret", "sk- secret", "sk-\x00secret"])
def test_a_key_that_is_none_is_refused_unseen(monkeypatch, key):
    monkeypatch.setattr("os.environ", {"LONGRUN_API_KEY": key})
    with pytest.raises(ConfigError, match="LONGRUN_API_KEY") as failure:
        EndpointClient("http://127.0.0.1:1/v1", EndpointSettings())
    assert "secret" not in str(failure.value)


def test_a_pause_is_asked_for_in_seconds_or_by_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < read_retry_after(soon) <= 30
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert read_retry_after(" 7 ") == 7
    assert read_retry_after("9" * 5000) < 1e10
    assert [read_retry_after(odd) for odd in ("", "soon", "-1", "1.5", "\u0667")] == [None] * 5


def test_every_value_of_sampling_is_sent_and_fields_are_added_and_taken_out(serve, configure):
    url, asked = serve(completion("x"))
    endpoint = {"stop": ["\n\n"], "body": {"top_k": None, "chat_template_kwargs": {"a": 1}}}
    written(configure(url, mode="cot", endpoint=endpoint, top_p=0.9, temperature=0.5))
    body = asked[0][1]
    assert {
        name: body[name] for name in ("temperature", "top_p", "min_p", "repetition_penalty")
    } == {
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert "top_k" not in body
    assert body["stop"] == ["\n\n"]
    assert body["chat_template_kwargs"] == {"a": 1}


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_request_proposes_to_send_text(serve, configure, status, caplog):
    def refuse(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    url, _ = serve(refuse)
    with pytest.raises(ResourceError):
        run(configure(url))
    assert "endpoint.send=text" in caplog.text


def test_a_run_under_a_strict_umask_is_readable_by_its_owner_alone(serve, configure, monkeypatch):
    monkeypatch.setenv("LONGRUN_API_KEY", "sk-secret\n")
    url, _ = serve(completion("x"))
    config = configure(url, mode="cot")
    before = os.umask(0o077)
    try:
        run(config)
    finally:
        os.umask(before)
    files = [path for path in config.output_dir.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not [path for path in files if path.stat().st_mode & 0o077]
    assert not [path for path in files if b"sk-secret" in path.read_bytes()]
