"""Programs that end with the process that started them, also when that is killed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

__all__ = ["Processes"]

_LOG_BYTES: Final = 4000
# The kernel kills the program when the thread that started it ends (PR_SET_PDEATHSIG).
_BOUND: Final = ("setpriv", "--pdeathsig", "KILL")


class Processes:
    """Programs by name. What each writes goes to ``NAME.log`` in the folder, also over restarts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # A test may call from a thread that ends soon; this one lives until close().
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="tests-processes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all; none can be started any more."""
        self.kill_all()
        self._starter.shutdown()

    def kill_all(self) -> None:
        """SIGKILL to each, the last one first."""
        for name in reversed(list(self._running)):
            self.kill(name)

    def start(self, name: str, *words: str, environment: Mapping[str, str]) -> None:
        """Start the program ``words`` as ``name``."""
        assert name not in self._running, f"{name} runs already"
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = self._starter.submit(
                subprocess.Popen[bytes],
                (*_BOUND, *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # An interrupt of the terminal is for pytest, which ends the programs in order.
                start_new_session=True,
                env=dict(environment),
            ).result()

    def kill(self, name: str) -> None:
        """SIGKILL; returns when it is gone."""
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def is_running(self, name: str) -> bool:
        """It was started and has not ended."""
        return name in self._running and self._running[name].poll() is None

    def fallen(self) -> list[str]:
        """Those that have ended by themselves."""
        return [name for name in self._running if not self.is_running(name)]

    def pid(self, name: str) -> int:
        """Its process id, for tests that stop or watch it."""
        return self._running[name].pid

    def log(self, name: str) -> str:
        """The end of what it has written."""
        return (self._folder / f"{name}.log").read_bytes()[-_LOG_BYTES:].decode(errors="replace")
