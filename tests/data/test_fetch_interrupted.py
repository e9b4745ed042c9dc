"""A download that is killed, against a server on loopback that speaks what the Hub speaks."""

import json
import random
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("huggingface_hub")
FILES = {
    f"data/cot-0000{number}-of-00002.parquet": random.Random(number).randbytes(size)
    for number, size in enumerate((1_000, 24_000_000))
}
FIRST_BYTES = 15_000_000
"""Sent of the second file before the server falls silent; its client writes 10 MiB at a time."""


class Hub(BaseHTTPRequestHandler):
    """One data set of two files."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        content = self._content()
        self._head(404 if content is None else 200, len(content or b""))

    def do_GET(self):
        content = self._content()
        self._head(404 if content is None else 200, len(content or b""))
        if content is None:
            return
        if self.path.endswith(".parquet"):
            self.server.asked_for.append(self.path.rpartition("/")[2])
        if self.server.stalls and len(content) > FIRST_BYTES:
            self.wfile.write(content[:FIRST_BYTES])
            self.server.wakes.wait(60)
            self.close_connection = True
            return
        self.wfile.write(content)

    def _content(self):
        if "/tree/" in self.path:
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in FILES.items()
            ]
            return json.dumps(listing).encode()
        return next((FILES[name] for name in FILES if self.path.endswith(f"/{name}")), None)

    def _head(self, status, length):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{length:x}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads, server.block_on_close = True, False
    server.stalls, server.wakes, server.asked_for = True, threading.Event(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.wakes.set()
    server.shutdown()
    server.server_close()


def test_a_killed_download_is_never_taken_for_a_whole_file_and_leaves_nothing(hub, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "longrun", "fetch", "dataset=some/records", "splits=[cot]",
        f"output_dir={out}",
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    environment = {"HF_ENDPOINT": endpoint, "HOME": str(tmp_path), "PATH": ""}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        wait_for_bytes(out, 10_000_000)
    finally:
        first.kill()
        first.communicate()
    names = [name.rpartition("/")[2] for name in FILES]
    assert not (out / "manifest.json").exists()
    assert [path.name for path in out.rglob("*.parquet")] == names[:1]

    hub.stalls = False
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [(out / "cot" / name).read_bytes() for name in names] == list(FILES.values())
    assert hub.asked_for == [*names, names[1]]  # what was whole is not fetched again
    outputs = json.loads((out / "manifest.json").read_text())["outputs"]
    assert sorted(outputs) == [f"cot/{name}" for name in names]
    assert not (out / ".cache").exists()


def wait_for_bytes(folder, num_bytes):
    """Wait until a file somewhere in ``folder`` has so many bytes."""
    pause = threading.Event()
    for _ in range(1_000):
        sizes = [path.stat().st_size for path in folder.rglob("*.incomplete")]
        if max(sizes, default=0) >= num_bytes:
            return
        pause.wait(0.05)
    raise AssertionError(f"no file of {num_bytes} bytes in {folder}")
