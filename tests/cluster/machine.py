"""A machine of a cluster: namespaces whose first process, when it is killed, takes along all that
runs, is mounted or is linked in them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.apiserver_processes import Processes
from tests.cluster.network import NAMESPACES
from tests.proxy import wait_until

__all__ = ["Machine"]

_START_SECONDS: Final = 20
_UNSHARED: Final = (
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"),
    *("--uts", "--ipc", "--kill-child=KILL"),
)
# The rest of the first process: it reaps what others leave behind.
_FOREVER: Final = "trap : TERM\nwhile :; do wait; sleep 1; done\n"
_BOUND: Final = ("setpriv", "--pdeathsig", "KILL")


class Machine:
    """Inside network namespace ``name``, with its files in ``folder``.

    ``script``, of bash, prepares it. The file system is that of this machine, but for what the
    script mounts. The machine ends when the process that started it does.
    """

    def __init__(
        self, name: str, folder: Path, script: str, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._script = script
        self._folder = folder
        self._environment = environment
        folder.mkdir()
        self._processes = Processes(folder / "logs")

    def start(self) -> None:
        """Returns when the script has run."""
        ready, script = self._folder / "ready", self._folder / "init.sh"
        ready.unlink(missing_ok=True)
        script.write_text(f"set -e\nhostname {self.name}\n{self._script}\n: >{ready}\n{_FOREVER}")
        self._processes.start(
            "init",
            *("nsenter", f"--net={NAMESPACES / self.name}", *_UNSHARED, "bash", str(script)),
            environment=self._environment,
        )

        def is_ready() -> bool:
            assert self._processes.is_running("init"), self._processes.log("init")
            return ready.exists()

        wait_until(is_ready, f"{self.name} has started", _START_SECONDS)

    def kill(self) -> None:
        """As if its plug were pulled; returns when nothing of it is left."""
        if self._processes.is_running("init"):
            # The kernel lets its parent know when everything else has ended.
            for pid in _children(self._processes.pid("init")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not self._processes.is_running("init"), f"{self.name} has ended")
        self._processes.kill_all()

    def close(self) -> None:
        """Kill it for good."""
        self.kill()
        self._processes.close()

    @property
    def is_running(self) -> bool:
        """It was started, and neither killed nor has it ended."""
        return self._processes.is_running("init")

    def start_program(self, name: str, *words: str) -> None:
        """Start a program inside."""
        self._processes.start(name, *self._entered(*_BOUND, *words), environment=self._environment)

    def kill_program(self, name: str) -> None:
        """SIGKILL; returns when it is gone."""
        pid = self.pid(name)
        self._processes.kill(name)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"{name} of {self.name} is gone")

    def is_program_running(self, name: str) -> bool:
        """It was started and has not ended."""
        return self._processes.is_running(name)

    def pid(self, name: str) -> int:
        """Of a program, as this machine numbers it: to stop or to kill it."""
        [pid] = _children(self._processes.pid(name))
        return pid

    def log(self, name: str) -> str:
        """The end of what a program, or ``init``, has written."""
        return self._processes.log(name)

    def fallen(self) -> list[str]:
        """Programs that have ended by themselves."""
        return self._processes.fallen()

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        done = subprocess.run(
            self._entered(*words),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=dict(self._environment),
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(words)} on {self.name}: exit code {done.returncode}\n{done.stderr}"
            )
        return done

    def _entered(self, *words: str) -> tuple[str, ...]:
        [first] = _children(self._processes.pid("init"))
        return ("nsenter", f"--target={first}", "-m", "-p", "-n", "-u", "-i", "--", *words)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []
