"""The file of declared adapters, looked at often and read when it has changed.

It lies in a mounted ConfigMap: Kubernetes swaps a link to its directory, so that what changes is
the file's identity. Others may write it in place.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sampler_api.fleet import ADAPTERS_FILE

__all__ = ["AdaptersFile"]

# A file that was written this recently could change again without its times showing it.
_SETTLED_NS: Final = 2_000_000_000

_Stamp = tuple[int, ...] | None


class AdaptersFile:
    """``adapters.json`` of a directory."""

    def __init__(self, directory: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._path = directory / ADAPTERS_FILE
        self._now_ns = now_ns
        self._stamp: _Stamp = ()
        self._content: bytes | None = None

    def changed(self) -> bytes | None:
        """Its content if that is another one than at the last look, else ``None``; a file that is
        not there is empty. Raises OSError."""
        stamp = self._look()
        if stamp == self._stamp:
            return None
        content = b"" if stamp is None else self._path.read_bytes()
        is_settled = stamp is None or self._now_ns() - max(stamp[-2:]) > _SETTLED_NS
        self._stamp = stamp if is_settled else ()
        if content == self._content:
            return None
        self._content = content
        return content

    def _look(self) -> _Stamp:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
