"""Processes that are nobody's children here."""

from contextlib import suppress
from pathlib import Path

__all__ = ["is_alive", "is_stopped"]


def is_alive(pid: int) -> bool:
    """Whether it runs. One that only waits for its parent to look at its end does not."""
    try:
        return _state(Path(f"/proc/{pid}")) not in ("Z", "X")
    except FileNotFoundError:
        return False


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has come to all its threads."""
    states = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            states.append(_state(thread))
    return set(states) == {"T"}


def _state(place: Path) -> str:
    return (place / "stat").read_text().rpartition(")")[2].split()[0]
