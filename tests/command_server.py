"""``sampler serve --engine sim`` as a process of its own, for tests over real HTTP."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["CommandServer"]

_ROOT = Path(__file__).parent.parent


class CommandServer:
    """Behind free ports; ``options`` are further words of the command line."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sampler_cli.main", "serve", "--engine", "sim"),
                *("--port", "0", "--manage-port", "0", "--listen-seconds", "0"),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {self.process.communicate()[1]}")
        self.announced: dict[str, Any] = json.loads(line)
        self.url = f"http://127.0.0.1:{self.announced['port']}"
        self.manage_url = f"http://127.0.0.1:{self.announced['manage_port']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> tuple[int, str]:
        """End it; the exit code and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            _, errors = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, errors = self.process.communicate()
        return self.process.returncode, errors
