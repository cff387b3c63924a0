"""Real ``sampler serve --engine sim`` processes that are killed, stopped and started again."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

__all__ = ["SimServer"]

_ROOT = Path(__file__).parent.parent


class SimServer:
    """One server that keeps its ports over restarts; ``options`` are words of the command line.

    Its log is appended to ``log``.
    """

    def __init__(self, log: Path, *options: str) -> None:
        self.port = 0
        self.starts = 0
        self._manage_port = 0
        self._options = options
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its data port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_alive(self) -> bool:
        """The process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it on the ports that it had; returns when it listens."""
        command = [
            sys.executable,
            "-m",
            "sampler_cli.main",
            "serve",
            "--engine",
            "sim",
            "--announce",
        ]
        command += ["--port", str(self.port), "--manage-port", str(self._manage_port)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {self._log.read_text()[-2000:]}")
        ports = json.loads(line)
        self.port, self._manage_port = ports["port"], ports["manage_port"]
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL; returns when it is gone. A dead one stays dead."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: it drains; returns when it has left."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
