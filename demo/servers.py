"""``sampler serve`` processes of this machine: started, looked at, killed, ended."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from sampler_api.fleet import ReplicaStatus

__all__ = ["Server", "ServerError", "Servers", "Status"]

_END_SECONDS = 20.0
_STATUS_SECONDS = 5.0


class ServerError(Exception):
    """A server did not start or does not answer; the text has its last lines."""


@dataclass(frozen=True, slots=True)
class Status:
    """What ``/status`` says: sequences running, engine steps since the start, the base's digest."""

    running: int
    steps: int
    base: str


class Server:
    """One process; its stderr goes to ``log``."""

    def __init__(self, options: Sequence[str], log: Path, threads: int) -> None:
        self.log = log
        # A killed server leaves its temporary files: they belong where the caller cleans up.
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TMPDIR": str(log.parent)}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sampler_cli.main", "serve"),
                    *("--port", "0", "--manage-port", "0", "--listen-seconds", "0"),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
            )
        self.port = 0
        self._manage_port = 0

    @property
    def name(self) -> str:
        """The name that segments give this replica."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://{self.name}"

    def wait_until_ready(self) -> None:
        """Block until it has printed its ports. Raises ServerError."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise ServerError(
                f"a server ended with code {code} before it was ready{self._last_words()}"
            )
        ports = json.loads(line)
        self.port, self._manage_port = ports["port"], ports["manage_port"]

    def status(self) -> Status:
        """Ask it. Raises ServerError."""
        address = f"http://127.0.0.1:{self._manage_port}/status"
        try:
            with urllib.request.urlopen(address, timeout=_STATUS_SECONDS) as reply:
                status = msgspec.json.decode(reply.read(), type=ReplicaStatus)
        except (OSError, msgspec.MsgspecError) as error:
            raise ServerError(f"{self.name} gave no status: {error!r}") from None
        if status.load is None or status.base is None:
            raise ServerError(f"{self.name} is not ready: {status.reason}")
        return Status(status.load.running, status.load.steps, status.base)

    def check_alive(self) -> None:
        """Raises ServerError when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"{self.name} ended by itself, with code {code}{self._last_words()}")

    def kill(self) -> None:
        """SIGKILL, as a machine that fails would end it."""
        self.process.kill()
        self.process.wait()

    def ask_to_end(self) -> None:
        """SIGTERM, if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()

    def _last_words(self) -> str:
        return "".join(
            f"\n  {line}" for line in self.log.read_text(errors="replace").splitlines()[-5:]
        )

    def wait_until_ended(self) -> None:
        """Wait for it, and kill it when it takes too long."""
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Servers:
    """Several equal servers, ended together when the ``with`` is left, however it is left."""

    def __init__(self, number: int, options: Sequence[str], logs: Path, threads: int) -> None:
        self.each: list[Server] = []
        try:
            for index in range(number):
                self.each.append(Server(options, logs / f"server-{index + 1}.log", threads))
        except BaseException:
            self.close()
            raise

    def wait_until_ready(self) -> None:
        """Block until all are. Raises ServerError."""
        for server in self.each:
            server.wait_until_ready()

    def close(self) -> None:
        """End all of them."""
        for server in self.each:
            server.ask_to_end()
        for server in self.each:
            server.wait_until_ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
