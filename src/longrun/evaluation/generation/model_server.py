"""Start an inference server for one model, wait until it is healthy, and end it.

The server is a program of its own (vLLM, SGLang, or a command that the user gives). It listens on
this machine only, leads a process group that is ended as a whole, and dies with this process,
however that happens. What it prints is in a log file, whose end is quoted when it fails.
"""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from longrun.config.evaluation import ServerSettings
from longrun.errors import ResourceError
from longrun.formats.closes import Closes

log = logging.getLogger(__name__)
COMMANDS = {
    "vllm": ["vllm", "serve", "{model}", "--served-model-name", "{name}"],
    "sglang": [
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", "{model}"),
        *("--served-model-name", "{name}"),
    ],
}
"""Engine -> its command; ``--host`` and ``--port`` are added."""
_ADDRESS = ["--host", "127.0.0.1", "--port", "{port}"]
_BIND_TO_PARENT = (
    "import os, sys; from longrun.formats.processes import die_with_parent;"
    " die_with_parent(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
)
_POLL_SECONDS = 0.2
_END_SECONDS = 15.0


class ModelServer(Closes):
    """A running server; use as a context manager."""

    def __init__(
        self, engine: str, settings: ServerSettings, model: Path, name: str, log_path: Path
    ) -> None:
        """Start the server for ``model`` under ``name`` and wait until it answers.

        Raises:
            ResourceError: its program is missing, it ends, or it is not healthy in time.
        """
        self._engine = engine
        self._log_path = log_path
        port = _free_port()
        words = {"model": str(model), "name": name, "port": str(port)}
        own = settings.command or [*COMMANDS[engine], *_ADDRESS]
        command = [word.format_map(words) for word in [*own, *settings.arguments]]
        if shutil.which(command[0]) is None:
            raise ResourceError(
                f"generate.engine={engine}: the program {command[0]} is missing; install it"
                f" (`pip install {engine}`), or set generate.server.command"
            )
        self.url = f"http://127.0.0.1:{port}/v1"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(log_path, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BIND_TO_PARENT, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        log.info("generate: started %s for %s (log: %s)", command[0], name, log_path)
        try:
            self._wait_until_healthy(port, settings.start_seconds)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the server, which is also its process group."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise ``ResourceError`` with the end of the log when the server has ended."""
        if self._process.poll() is not None:
            raise ResourceError(
                f"generate.engine={self._engine}: the server ended with exit code"
                f" {self._process.returncode} ({self._last_words()}); see {self._log_path}"
            )

    def close(self) -> None:
        """End the server and everything it started: first politely, then at once."""
        for number, seconds in ((signal.SIGTERM, _END_SECONDS), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def _wait_until_healthy(self, port: int, seconds: float) -> None:
        opener = build_opener(ProxyHandler({}))
        address = f"http://127.0.0.1:{port}/health"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check_alive()
            with suppress(URLError, OSError), opener.open(address, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(_POLL_SECONDS)
        raise ResourceError(
            f"generate.engine={self._engine}: the server did not become healthy within"
            f" {seconds:g} seconds ({self._last_words()}); raise generate.server.start_seconds or"
            f" see {self._log_path}"
        )

    def _last_words(self) -> str:
        text = self._log_path.read_bytes()[-2000:].decode("utf-8", "replace").strip()
        return text.splitlines()[-1][-300:] if text else "it printed nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
