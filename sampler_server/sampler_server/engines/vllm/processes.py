"""The processes below this one, for an engine that does not end by itself. Linux only."""

import os
import signal
from contextlib import suppress
from pathlib import Path

__all__ = ["descendants", "kill_all"]


def descendants(pid: int) -> list[int]:
    """Process ids below ``pid``, parents before children; empty where /proc is not there."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop(0)}/task").glob("*/children"):
            with suppress(OSError):
                children = [int(word) for word in task.read_text().split()]
                found += children
                waiting += children
    return found


def kill_all(pids: list[int]) -> None:
    """SIGKILL, which also ends a process that is stopped; those that have gone are no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
