"""A child process that speaks lines of JSON."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from sampler_server.engines.vllm.processes import descendants

__all__ = ["ROOT", "Program"]

ROOT: Final = Path(__file__).resolve().parents[1]


class Program:
    """A child process whose stderr goes to a file, of which the end is shown when it fails."""

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far, of this process alone."""
        with open(f"/proc/{self._process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def pids(self) -> list[int]:
        """This process and all below it."""
        return [self._process.pid, *descendants(self._process.pid)]

    def say(self, **values: Any) -> None:
        """One line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()

    def last_word(self, mark: str) -> dict[str, Any]:
        """What ``hear`` would give, once nothing more comes on its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.hear(mark)

    def hear(self, mark: str) -> dict[str, Any]:
        """Its next line that begins with ``mark``, as JSON without a mark that is no part of it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(mark):
                found: dict[str, Any] = json.loads(line.removeprefix("@"))
                return found
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        raise SystemExit(f"{self._process.args!r} has ended:\n{text[-4000:]}")
