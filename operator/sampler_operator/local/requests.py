"""Asking for a fleet: by the runtime of this process, by one in the background, or by one that
runs already."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from sampler_api.local_state import fleet_folder, state_root

from ..errors import InvalidSpec, Missing, OperatorError
from .devices import found_devices
from .folders import Folder
from .news import news
from .places import Places
from .prepared import Prepared, name_in, prepared
from .state import FleetState, digest_of, read_state

__all__ = [
    "Request",
    "end_fleet",
    "fleets",
    "folder_of",
    "in_background",
    "requested",
    "wait_until_up",
]

Tell = Callable[[str], None]

_LOOK_SECONDS: Final = 0.2
_START_SECONDS: Final = 60.0
_SHOWN_LINES: Final = 5


class Request(msgspec.Struct, frozen=True):
    """A spec that has been checked, and the folder of its fleet."""

    folder: Folder
    prepared: Prepared
    text: str
    places: Places

    def write(self) -> str:
        """Put it where the runtime looks; its digest."""
        places = msgspec.json.encode(self.places)
        # The spec last: it is complete with what is there by then.
        self.folder.write(self.folder.places, places)
        self.folder.write(self.folder.spec, self.text)
        return digest_of(self.text.encode(), places)


def folder_of(name: str) -> Folder:
    """The folder of a fleet, whether it exists or not."""
    return Folder(fleet_folder(os.environ, name))


def requested(text: str, given: Places) -> Request:
    """What a file asks for. For a fleet that runs, directories that were given before need not be
    given again. Raises InvalidSpec."""
    folder = folder_of(name_in(text))
    places = given
    if folder.holder() and folder.places.exists():
        places = given.over(msgspec.json.decode(folder.places.read_bytes(), type=Places))
    devices = len(found_devices(os.environ))
    return Request(folder, prepared(text, places, devices), text, places)


def fleets(name: str | None) -> list[FleetState]:
    """The fleets that run here, or the one of a name. Raises Missing when there is none."""
    root = state_root(os.environ)
    names = [name] if name else sorted(p.name for p in root.glob("[a-z]*") if p.is_dir())
    running = [(folder, folder.holder()) for folder in map(folder_of, names)]
    states = [read_state(folder) for folder, holder in running if holder]
    found = [state for state in states if state is not None]
    if not found:
        what = f"no fleet {name} runs" if name else "no fleet runs"
        raise Missing(f"{what} here ({root}); `sampler up -f FILE` starts one")
    return found


def in_background(folder: Folder) -> "subprocess.Popen[bytes]":
    """Start the runtime of a folder as a process that outlives this one."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    with folder.runtime_log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sampler_operator.local", folder.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_until_up(
    folder: Folder, request: str, before: FleetState | None, tell: Tell
) -> FleetState:
    """Wait until all replicas are as asked for, or a pause keeps them from it. ``before`` is the
    state when it was asked. Raises OperatorError when that fails, with the reason."""
    deadline = time.monotonic() + _START_SECONDS
    is_taken = False
    while True:
        holder, state = folder.holder(), read_state(folder)
        # What a former runtime wrote last may be of the same request.
        if state is not None and state.pid == holder and state.request == request:
            is_taken = True
            if before != state:
                for line in news(before, state):
                    tell(line)
                before = state
            if state.error:
                raise InvalidSpec(state.error)
            if state.holds("UpToDate") or state.is_paused:
                return state
            if state.holds("Stalled"):
                stalled = state.condition("Stalled")
                raise OperatorError(f"{stalled['reason']}: {stalled['message']}")
        if not holder and (is_taken or time.monotonic() > deadline):
            raise OperatorError(f"the runtime of {folder.name} has ended{_last_lines(folder)}")
        time.sleep(_LOOK_SECONDS)


def end_fleet(folder: Folder, tell: Tell, *, at_once: bool = False) -> None:
    """End the runtime of a folder and wait for it. Raises Missing when none runs."""
    pid = folder.holder()
    if not pid:
        raise Missing(f"no fleet {folder.name} runs here ({folder.path})")
    os.kill(pid, signal.SIGTERM)
    before = read_state(folder)
    is_over = False
    while not is_over:
        is_over = folder.holder() != pid
        state = read_state(folder)
        if state is not None and before is not None and state != before:
            for line in news(before, state):
                tell(line)
            before = state
        if at_once and not is_over:
            os.kill(pid, signal.SIGTERM)
        time.sleep(_LOOK_SECONDS)


def _last_lines(folder: Folder) -> str:
    log = folder.runtime_log
    if not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
    return "".join(f"\n  {line}" for line in lines)
