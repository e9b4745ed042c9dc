"""A small server that answers what ``huggingface_hub`` asks for files of data sets."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        content = self.find()
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hash(content):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def find(self):
        """Return a file's bytes, or the list of a data set's files; None for anything else."""
        path = self.path.partition("?")[0]
        name, resolve, rest = path.lstrip("/").partition("/resolve/")
        if resolve:
            return self.server.files.get((name, rest.partition("/")[2]))
        name, tree, _ = path.removeprefix("/api/").partition("/tree/")
        sizes = [
            {"type": "file", "path": file, "size": len(content), "oid": COMMIT}
            for (owner, file), content in self.server.files.items()
            if tree and owner == name
        ]
        return json.dumps(sizes).encode() if sizes else None

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serve(files):
    """Serve ``(datasets/OWNER/NAME, path) -> bytes``; give the address and what was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked = files, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
