"""Programs of ours that start without their imports: forked from a process that has made them.

Imports are most of what a server takes to start. For each kind of program one process, started when
first wanted, makes them once (``tests.forking``). What is forked from it is a process of its own,
with its own arguments, environment, folder, files, session, signals and exit code.

Fixed before a fork are ``/proc/PID/cmdline``, the seed of hashes, and what imports read of the
environment: a program for which a variable differs that imports may read must be started the usual
way. So it is by tests of the start itself.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

__all__ = ["Forked", "Forker", "close_forkers"]

_ROOT: Final = Path(__file__).parent.parent
_AT_FIRST: Final = dict(os.environ)
# PEFT sets one of torch's where it is imported, which is in tests too.
_READ_WHEN_USED: Final = ("POD_", "PYTEST_", "SAMPLER_", "TORCHINDUCTOR_")
_ANSWER_BYTES: Final = 16

_known: "weakref.WeakSet[Forker]" = weakref.WeakSet()


def close_forkers() -> None:
    """At the end of a test run, which then has their CPU time among its own."""
    for forker in list(_known):
        forker.close()


class Forked:
    """A program that runs or has run: as much of ``subprocess.Popen`` as tests use."""

    def __init__(self, pid: int, end: int, stdout: IO[str] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self._end = end
        self._code: int | None = None
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, end)

    def poll(self) -> int | None:
        """Its exit code, or less than 0: the signal that ended it. ``None`` while it runs."""
        with self._lock:
            if self._code is None and self._is_told(0):
                told = os.read(self._end, _ANSWER_BYTES)
                if not told:
                    raise RuntimeError(f"nobody knows how process {self.pid} has ended")
                self._code = int(told)
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        ends = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            if not self._is_told(left):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """To it alone; nothing once it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _is_told(self, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


class Forker:
    """Starts programs that need ``modules``, from a process that has imported them.

    ``variables`` are those in which its environment, and theirs, differs from that of the tests.
    """

    def __init__(self, *modules: str, **variables: str) -> None:
        self._modules = modules
        self._environment = {**_AT_FIRST, **variables}
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._lock = threading.Lock()
        _known.add(self)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether imports read there what they read here: the environment of the tests, but for
        ``variables``."""
        return _fixed(environment) == _fixed(self._environment)

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        log: IO[bytes],
        *,
        has_output: bool = False,
    ) -> Forked:
        """What ``python WORDS…`` is, in the root of the repository and in a session of its own.

        It writes to ``log``; with ``has_output`` its stdout is there to be read. It is killed when
        this process ends. ``environment`` must fit.
        """
        assert self.fits(environment), "imports would read something else there"
        wanted = {"words": words, "environment": dict(environment), "folder": str(_ROOT)}
        end, told = os.pipe()
        output, written = os.pipe() if has_output else (None, log.fileno())
        with open(os.devnull, "rb") as nothing:
            files = [nothing.fileno(), written, log.fileno(), told]
            pid = self._ask(json.dumps(wanted).encode(), files)
        os.close(told)
        if output is None:
            return Forked(pid, end, None)
        os.close(written)
        return Forked(pid, end, open(output))

    def close(self) -> None:
        """End: what was forked is killed, and nothing is forked any more."""
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()
                self._process.wait()
            self._log.close()

    def _ask(self, request: bytes, files: list[int]) -> int:
        with self._lock:
            if self._control is None:
                self._control = self._begin()
            try:
                socket.send_fds(self._control, [request], files)
                answer = self._control.recv(_ANSWER_BYTES)
            except ConnectionError:
                answer = b""
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"nothing can be forked:\n{self._log.read().decode()}")
        return int(answer)

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # It ends with its socket: nobody has to wait for it.
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.forking", str(theirs.fileno()), *self._modules),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=_ROOT,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours


def _fixed(environment: Mapping[str, str]) -> dict[str, str]:
    """What imports may read."""
    items = environment.items()
    return {name: value for name, value in items if not name.startswith(_READ_WHEN_USED)}
