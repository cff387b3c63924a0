"""What a client process asked for and got, and when: written while it runs, read at any moment.

One JSON object a line, so that a process that is killed leaves at most one torn line behind. Times
are seconds of the machine's monotonic clock, which all its processes share.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

__all__ = [
    "Arrived",
    "Asked",
    "Closed",
    "Delivered",
    "Ended",
    "Event",
    "JournalReader",
    "JournalWriter",
    "Span",
    "Streamed",
    "decode_events",
]


class Asked(msgspec.Struct, frozen=True, tag=True):
    """A call: one prompt, ``n`` sequences of ``length`` tokens, the call's seed."""

    at: float
    prompt: tuple[int, ...]
    seed: int
    n: int
    length: int


class Arrived(msgspec.Struct, frozen=True, tag=True):
    """A frame of ``replica`` brought new tokens: (seed of the call, child, tokens it has now)."""

    at: float
    replica: str
    totals: tuple[tuple[int, int, int], ...]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A segment of a sequence."""

    replica: str
    start: int
    end: int
    ended: str


class Delivered(msgspec.Struct, frozen=True):
    """A sequence as the caller got it: tokens i32 and logprobs f32, little-endian.

    ``error`` is the code of a sequence that failed; its tokens are those that had arrived.
    """

    tokens: bytes
    logprobs: bytes
    base: str
    adapter: str | None
    spans: tuple[Span, ...]
    error: str = ""
    message: str = ""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A call has returned its sequences."""

    at: float
    seed: int
    sequences: tuple[Delivered, ...]


class Streamed(msgspec.Struct, frozen=True, tag=True):
    """A stream of plain HTTP, from its request to its end. ``problem`` is empty for one that was
    answered whole; ``refused``: it got no status 200."""

    began: float
    at: float
    tokens: int
    problem: str = ""
    refused: bool = False


class Closed(msgspec.Struct, frozen=True, tag=True):
    """The process has ended by itself, everything that it asked for being answered."""

    at: float


Event = Asked | Arrived | Ended | Streamed | Closed

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Event)


class JournalWriter:
    """Appends events; each is handed to the operating system at once. From any thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: Event) -> None:
        """One event."""
        data = memoryview(_encoder.encode(event) + b"\n")
        while data:
            data = data[os.write(self._file, data) :]

    @staticmethod
    def now() -> float:
        """The clock of all events."""
        return time.monotonic()


class JournalReader:
    """The events of a journal that grows; each look reads what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._events: list[Event] = []

    @property
    def events(self) -> list[Event]:
        """All of them by now, in the order of writing."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._position += len(whole) + len(newline)
            self._events += decode_events(whole.split(b"\n"))
        return self._events


def decode_events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Events of whole lines; a torn line, behind which another process went on, is left out."""
    for line in lines:
        if line:
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError:
                continue
