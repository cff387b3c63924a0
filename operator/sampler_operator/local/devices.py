"""GPUs of this machine: which there are, and which pod has which.

Several fleets may run here, so a device in use is a locked file that all runtimes look at; the lock
ends with its process.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

__all__ = ["DEVICES_VARIABLE", "Devices", "found_devices"]

DEVICES_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
_LIST_SECONDS: Final = 20


def found_devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The devices that pods may have: those of ``CUDA_VISIBLE_DEVICES``, else all."""
    listed = environment.get(DEVICES_VARIABLE)
    if listed is not None:
        return tuple(word.strip() for word in listed.split(",") if word.strip())
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_LIST_SECONDS,
        )
        return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
    return ()


class Devices:
    """Hands out devices for as long as pods need them."""

    def __init__(self, names: tuple[str, ...], folder: Path) -> None:
        self._names = names
        self._folder = folder
        self._held: dict[str, IO[str]] = {}

    @property
    def number(self) -> int:
        """Devices of this machine."""
        return len(self._names)

    def take(self, count: int) -> tuple[str, ...] | None:
        """``count`` free devices, or ``None`` when there are too few."""
        taken: list[str] = []
        for name in self._names:
            if len(taken) < count and self._lock(name):
                taken.append(name)
        if len(taken) < count:
            self.give_back(tuple(taken))
            return None
        return tuple(taken)

    def give_back(self, names: tuple[str, ...]) -> None:
        """They are free again."""
        for name in names:
            self._held.pop(name).close()

    def free(self) -> int:
        """How many are free now."""
        taken = [name for name in self._names if self._lock(name)]
        self.give_back(tuple(taken))
        return len(taken)

    def _lock(self, name: str) -> bool:
        if name in self._held:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        # The file stays open for as long as the device is held.
        file = (self._folder / f"{name.replace(os.sep, '_')}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._held[name] = file
        return True
