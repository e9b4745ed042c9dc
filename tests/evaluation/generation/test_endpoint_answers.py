"""Servers that answer from a list: ends of code calls, garbage, redirects, keys."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longrun.config.evaluation import GenerateConfig
from longrun.evaluation.generation.generate import run
from longrun.formats.predictions import read_predictions

ROW = {"problem": "Find 6 * 7.", "expected_answer": "42", "total_code_executions": 2}


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr("longrun.evaluation.generation.endpoint._FIRST_PAUSE", 0.01)


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
