"""The folder of a fleet on this machine, file by file."""

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from sampler_api.local_state import FLEET_FILE

from ..errors import Refused

__all__ = ["Folder"]

_KEPT_LOGS: Final = 100
_LOCK: Final = "lock"
_LOCK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Folder:
    """What is where. Only the runtime that holds the lock writes, but for what it is asked for:
    ``spec`` and ``places``."""

    path: Path

    @property
    def name(self) -> str:
        """The fleet."""
        return self.path.name

    @property
    def fleet(self) -> Path:
        """The replicas that are ready, for clients."""
        return self.path / FLEET_FILE

    @property
    def status(self) -> Path:
        """The whole status, for people."""
        return self.path / "status.json"

    @property
    def spec(self) -> Path:
        """The manifest that is asked for."""
        return self.path / "spec.yaml"

    @property
    def places(self) -> Path:
        """The directories that were given with it."""
        return self.path / "places.json"

    @property
    def logs(self) -> Path:
        """Logs of pods, and of the runtime itself."""
        return self.path / "logs"

    @property
    def runtime_log(self) -> Path:
        """The log of a runtime in the background."""
        return self.logs / "runtime.log"

    @property
    def pods(self) -> Path:
        """Directories of pods."""
        return self.path / "pods"

    @property
    def devices(self) -> Path:
        """Locks of devices; all fleets of the machine share them."""
        return self.path.parent / ".devices"

    def make(self) -> None:
        """Make the folders; what pods of a former runtime left is removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        for left in (self.pods, *self.scratch("").parent.glob(self.scratch("*").name)):
            shutil.rmtree(left, ignore_errors=True)
        self.pods.mkdir()

    def scratch(self, pod: str) -> Path:
        """What is /tmp for a pod: a short path, as those of sockets are limited."""
        return Path(tempfile.gettempdir()) / f"sampler-{self.uid()[:8]}-{pod}"

    def uid(self) -> str:
        """Identity of the fleet; it stays, so that clients of a fleet that was down come back."""
        file = self.path / "uid"
        if not file.exists():
            self.write(file, str(uuid.uuid4()))
        return file.read_text().strip()

    def write(self, file: Path, content: str | bytes) -> None:
        """Write a file so that nobody sees half of it."""
        self.path.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(data)
        os.replace(temporary, file)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the runtime of this fleet. Raises Refused when another one is."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("a+") as file:
            if not _has_locked(file):
                raise Refused(
                    f"fleet {self.name} runs already; `sampler down {self.name}` ends it", "name"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def holder(self) -> int:
        """The process of the runtime that holds the lock; 0 when none does."""
        try:
            file = (self.path / _LOCK).open("r")
        except FileNotFoundError:
            return 0
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0)
        return 0

    def log_of(self, pod: str) -> Path:
        """The log of a new pod; the oldest ones go."""
        logs = sorted(self.logs.glob("*-*.log"), key=lambda path: path.stat().st_mtime)
        for path in logs[: -_KEPT_LOGS + 1]:
            path.unlink(missing_ok=True)
        return self.logs / f"{pod}.log"


def _has_locked(file: IO[str]) -> bool:
    """Lock it; whoever only looks holds it for a moment, and is waited for."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True
