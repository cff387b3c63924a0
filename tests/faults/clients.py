"""Client processes of a row, and what they have written down."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

from tests.faults.journal import Event, JournalReader

__all__ = ["ClientProcess"]

_ROOT: Final = Path(__file__).parent.parent.parent
_END_SECONDS: Final = 150


class ClientProcess:
    """``python -m MODULE TARGET JOURNAL …``, whose log is beside its journal.

    ``resolver``: an address that it asks for names, in place of this machine's.
    """

    def __init__(
        self,
        module: str,
        target: str,
        journal: Path,
        *words: str,
        kubeconfig: Path | None = None,
        resolver: str = "",
    ) -> None:
        self._journal = JournalReader(journal)
        self._log = journal.with_suffix(".log")
        command = [sys.executable, "-m", module, target, str(journal), *words]
        if resolver:
            names = journal.with_suffix(".resolv.conf")
            names.write_text(f"nameserver {resolver}\noptions timeout:1 attempts:1\n")
            mount = f'mount --bind "{names}" /etc/resolv.conf && exec "$@"'
            command = ["unshare", "--mount", "sh", "-ec", mount, "sh", *command]
        # It ends with the process that started it, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        environment = {**os.environ, "PYTHONWARNINGS": ""}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env=environment,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()

    @property
    def events(self) -> list[Event]:
        """What it has written down by now. Raises RuntimeError when it failed."""
        code = self._process.poll()
        if code not in (None, 0, -signal.SIGKILL, -signal.SIGTERM):
            raise RuntimeError(f"a client has ended with {code}:\n{self.log}")
        return self._journal.events

    @property
    def log(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-4000:]

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask for no more."""
        self._process.terminate()

    def wait(self) -> None:
        """Until all that it has asked for is answered. Raises RuntimeError when it fails."""
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            # Whatever is missing in its journal is lost.
            self.kill()
            return
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"a client has ended with {code}:\n{self.log}")
