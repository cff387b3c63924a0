"""One line for people of what vLLM and its processes say when they cannot start. Pure."""

import re
from typing import Final

__all__ = ["one_line", "root_cause"]

_ERROR: Final = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|NotFound)): (.+)$")
# What a process says of another one's failure.
_ECHOES: Final = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "Worker failed with error",
    "Call to ",
)
_COUNT: Final = re.compile(r"^\d+ validation errors? for (\w+)$")
_LINKS: Final = re.compile(r"^\s*For further information visit ")
_INPUT: Final = re.compile(r"\s*\[type=[^\]]*\]\s*$")


def one_line(error: BaseException) -> str:
    """The message of an exception; of pydantic's lists the first entry."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and _COUNT.match(lines[0]):
        lines = [_INPUT.sub("", line) for line in lines[1:] if not _LINKS.match(line)][:2]
        return ": ".join(line.removeprefix("Value error, ") for line in lines) or "invalid"
    return lines[0] if lines else type(error).__name__


def root_cause(log: str) -> str | None:
    """The first error in a log of tracebacks that does not repeat another process's.

    The process that failed first writes first; those above it only pass it on.
    """
    for line in log.splitlines():
        found = _ERROR.match(line)
        if found and not found[2].startswith(_ECHOES):
            return f"{found[1]}: {found[2]}"
    return None
