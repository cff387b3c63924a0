"""The last line of a process that could not start or go on, for people and for Kubernetes."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from sampler_api.names import ENV_TERMINATION_LOG

__all__ = ["report_end"]

_DEFAULT_LOG: Final = Path("/dev/termination-log")
# Kubernetes keeps 4096 bytes, and nobody reads more of a line.
_MAX_CHARACTERS: Final = 1000


def report_end(line: str, path: Path | None = None) -> None:
    """Why the process ends: one line on stderr, and in the file that Kubernetes shows.

    ``path``: default ``SAMPLER_TERMINATION_LOG``, else ``/dev/termination-log`` where it exists.
    """
    line = " ".join(line.split())
    print(line, file=sys.stderr, flush=True)
    if path is None:
        path = Path(os.environ.get(ENV_TERMINATION_LOG) or _DEFAULT_LOG)
        if path == _DEFAULT_LOG and not path.exists():
            return
    if len(line) > _MAX_CHARACTERS:
        line = line[: _MAX_CHARACTERS - 1] + "…"
    with contextlib.suppress(OSError):
        path.write_text(line + "\n", "utf-8")
