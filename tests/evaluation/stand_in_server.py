"""A small server with the OpenAI completions interface around the built-in generation.

A program of its own: ``python stand_in_server.py --model FOLDER --port N [--misbehave JSON]``.
``--misbehave`` is a list of what to do with the first requests instead of answering: a status code,
"garbage", "cut", "hang up", "empty". ``--log FILE`` gets one line per request.
"""

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from longrun.config.evaluation import GenerateConfig
from longrun.evaluation.generation.decoding import ContinuousDecoder
from longrun.evaluation.generation.solutions import Solution
from longrun.formats.predictions import Problem


class Stops:
    """Ends a row as soon as its text holds one of the stop strings."""

    def __init__(self, decode, stops):
        self.decode, self.stops = decode, stops

    def ends_segment(self, solution):
        text = self.decode(solution.tokens)
        return any(stop in text for stop in self.stops)

    def begin(self, solution):
        solution.finish = "stop"
        self.ended = solution

    def collect(self, *, wait):
        return [self.ended]


class Model:
    def __init__(self, folder):
        torch.set_num_threads(1)
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.lock = threading.Lock()

    def decode(self, tokens):
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def complete(self, body):
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        values = {
            "output_dir": "unused",
            "models": {"m": str(self.folder)},
            "benchmarks": [{"name": "b", "path": "unused"}],
            "temperature": body["temperature"],
            "top_p": body["top_p"],
        }
        problem = Problem(
            id="p",
            mode="tir",
            source="",
            problem="",
            expected_answer="",
            total_code_executions=None,
            candidates=[],
            line=1,
            record={},
        )
        rng = np.random.default_rng(body["seed"])
        solution = Solution(problem, 0, prompt, body["max_tokens"], 0, rng)
        with self.lock:
            decoder = ContinuousDecoder(self.folder, GenerateConfig.parse(values, "s"), stop_id=2)
            stops = body.get("stop", [])
            list(decoder.write(iter([solution]), Stops(self.decode, stops) if stops else None))
        tokens = solution.tokens
        if tokens[-1] in decoder.stop_ids:
            tokens = tokens[:-1]
        text = self.decode(tokens)
        for stop in stops:
            text = text.partition(stop)[0]
        return {"choices": [{"text": text, "finish_reason": solution.finish}]}


def make_server(folder, port=0, misbehave=(), log=None):  # noqa: C901  (one branch per deed)
    model, left, lock = Model(folder), list(misbehave), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, status, content, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.reply(200 if self.path == "/health" else 404, b"")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                deed = left.pop(0) if left else None
                if log is not None:
                    entry = {
                        "time": time.monotonic(),
                        "authorization": self.headers.get("Authorization"),
                        "path": self.path,
                        "body": body,
                    }
                    with open(log, "a") as file:
                        file.write(json.dumps(entry) + "\n")
            if isinstance(deed, int):
                self.reply(deed, b'{"error": "told to"}', **({"Retry_After": "0"}))
            elif deed == "garbage":
                self.reply(200, b"<html>\xff busy </html>")
            elif deed == "empty":
                self.reply(200, b'{"choices": []}')
            elif deed == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices"')
                self.close_connection = True
            elif deed == "hang up":
                self.close_connection = True
            else:
                self.reply(200, json.dumps(model.complete(body)).encode())

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--misbehave", type=json.loads, default=[])
    parser.add_argument("--log")
    parser.add_argument("--die-after", type=float)
    options = parser.parse_args()
    server = make_server(options.model, options.port, options.misbehave, options.log)
    print("listening", flush=True)
    if options.die_after is not None:
        threading.Timer(options.die_after, server.shutdown).start()
    server.serve_forever()
    print("out of memory", flush=True)
    sys.exit(3)


if __name__ == "__main__":
    main()
