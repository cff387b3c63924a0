"""One process of this machine, in a group of its own, that does not outlive the runtime."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Process"]

# Run before the program itself, in its process. Linux then tells it when its parent has died; a
# function between fork and exec could do the same, but not safely beside threads.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the runtime has ended")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}; is it installed on this machine?")
"""


class Process:
    """A process that has been started; ``start`` makes it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(
        cls, words: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> "Process":
        """Start it in ``folder``; what it prints is appended to ``log``."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())),
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment,
                # A Ctrl-C at the terminal is the runtime's, which lets its pods drain.
                start_new_session=True,
            )
        return cls(process)

    async def wait(self) -> int:
        """Its exit code as containers have it: 128 + number for a signal. What it left behind in
        its group is killed."""
        code = await self._process.wait()
        self._kill_group()
        return code if code >= 0 else 128 - code

    async def end(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._process.wait()
        except TimeoutError:
            self._kill_group()

    def kill(self) -> None:
        """SIGKILL at once."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
