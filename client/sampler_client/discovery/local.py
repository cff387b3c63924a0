"""The fleet of a name on this machine: the runtime's state file, looked at five times a second."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from sampler_api.errors import InvalidRequest
from sampler_api.fleet import LocalFleet
from sampler_api.local_state import FLEET_FILE, LOCAL_SCHEME, fleet_folder

from . import Endpoint

__all__ = ["LocalDiscovery"]

_LOOK_SECONDS: Final = 0.2
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class LocalDiscovery:
    """``local://NAME``. A file that is not there yet, or not any more, is an empty set; one whose
    runtime has died says what was true last, and connections find out by themselves."""

    fleet = ""
    certificate_name = ""

    def __init__(self, target: str) -> None:
        name = target.strip().partition("://")[2].rstrip("/")
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"endpoints: {target.strip()!r} must be {LOCAL_SCHEME}://NAME, with the"
                " metadata.name of a fleet",
                "endpoints",
            )
        self._name = name
        self._file = fleet_folder(os.environ, name) / FLEET_FILE

    @property
    def description(self) -> str:
        """What the user wrote, and why it has no replica."""
        target = f"{LOCAL_SCHEME}://{self._name}"
        fleet = _read(self._file)
        if fleet is None:
            return (
                f"{target} (no such fleet runs here: there is no {self._file}; start it with"
                " `sampler up -f FILE`)"
            )
        if not fleet.replicas:
            return f"{target} (none is ready; see `sampler status {self._name}`)"
        return target

    async def watch(self) -> AsyncIterator[frozenset[Endpoint]]:
        """The ready replicas, at once and after each change of the file."""
        stamp: tuple[int, ...] | None = ()
        known: frozenset[Endpoint] | None = None
        while True:
            now = _stamp(self._file)
            if now != stamp:
                stamp = now
                found = _endpoints(_read(self._file))
                if found != known:
                    known = found
                    yield found
            await asyncio.sleep(_LOOK_SECONDS)


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Changes whenever the file is replaced."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(file: Path) -> LocalFleet | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=LocalFleet)
    except (OSError, msgspec.MsgspecError):
        return None


def _endpoints(fleet: LocalFleet | None) -> frozenset[Endpoint]:
    if fleet is None:
        return frozenset()
    return frozenset(Endpoint(url) for replica in fleet.replicas for url in replica.urls)
