"""The fleet of the demo: `sampler up` in the beginning, `sampler down` in the end."""

import os
import signal
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
from sampler_api.local_state import ENV_STATE_DIR
from sampler_operator.local.folders import Folder
from sampler_operator.local.state import PodLine, read_state

__all__ = ["Fleet", "FleetError", "Replica", "Status"]

_STATUS_SECONDS = 5.0
_SHOWN_LINES = 5


class FleetError(Exception):
    """The fleet did not start, or a replica ended by itself; the text says why."""


@dataclass(frozen=True, slots=True)
class Status:
    """What ``/status`` says: sequences running, engine steps since the start, the base's digest."""

    running: int
    steps: int
    base: str
    pid: int


class Replica:
    """One replica, as it was when the fleet had become ready."""

    def __init__(self, folder: Folder, pod: PodLine) -> None:
        self._folder = folder
        self._pod = pod

    @property
    def name(self) -> str:
        """The name that segments give it."""
        return self._pod.name

    def status(self) -> Status:
        """Ask it. Raises FleetError."""
        try:
            with urllib.request.urlopen(self._pod.status_url, timeout=_STATUS_SECONDS) as reply:
                status = msgspec.json.decode(reply.read(), type=ReplicaStatus)
        except (OSError, msgspec.MsgspecError) as error:
            raise FleetError(f"{self.name} gave no status: {error!r}") from None
        if status.load is None or status.base is None:
            raise FleetError(f"{self.name} is not ready: {status.reason}")
        return Status(status.load.running, status.load.steps, status.base, status.pid)

    def check_alive(self) -> None:
        """Raises FleetError when its process has ended, even if another one has been started."""
        state = read_state(self._folder)
        now = {pod.name: pod for pod in state.pods}.get(self.name) if state is not None else None
        if now is None or now.pid != self._pod.pid:
            lines = Path(self._pod.log).read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
            raise FleetError("\n  ".join([f"{self.name} ended by itself", *lines]))

    def kill(self, status: Status) -> None:
        """SIGKILL to the process of ``status``, as a machine that fails would end it."""
        os.kill(status.pid, signal.SIGKILL)


class Fleet:
    """Runs from ``with`` to its end, however that is left. ``options`` are further words of
    `sampler up`, ``threads`` what each replica may use; the state is kept below ``folder``."""

    def __init__(
        self, spec: Path, name: str, options: Sequence[str], folder: Path, threads: int
    ) -> None:
        self._spec = spec
        self._options = options
        self._folder = Folder(folder / "state" / name)
        # Replicas leave temporary files when they are killed: they belong where the demo cleans up.
        self._environment = os.environ | {
            ENV_STATE_DIR: str(self._folder.path.parent),
            "OMP_NUM_THREADS": str(threads),
            "TMPDIR": str(folder),
        }

    @property
    def target(self) -> str:
        """Where clients connect."""
        return f"local://{self._folder.name}"

    @property
    def replicas(self) -> list[Replica]:
        """Those that run."""
        state = read_state(self._folder)
        return [Replica(self._folder, pod) for pod in state.pods] if state is not None else []

    def __enter__(self) -> Self:
        # Clients of this process look there too.
        os.environ[ENV_STATE_DIR] = self._environment[ENV_STATE_DIR]
        with self._command("up", "--file", str(self._spec), "--detach", *self._options) as up:
            try:
                told, problem = up.communicate()
            except BaseException:
                # It ends what it has started.
                up.send_signal(signal.SIGINT)
                up.communicate()
                raise
        if up.returncode:
            raise FleetError("\n  ".join([problem.strip(), *told.splitlines()[-_SHOWN_LINES:]]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._command("down", self._folder.name) as down:
            down.communicate()

    def _command(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "sampler_cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            # An interrupt at the terminal is the demo's, which passes it on.
            start_new_session=True,
        )
