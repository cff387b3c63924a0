"""What goes through the hub: batches of streams, the adapters that they hold, totals of both."""

from collections.abc import Mapping
from typing import Protocol

from sampler_api.frames import HANDED_OVER, RevisionRef

from .engines.base import EngineRequest
from .streams import Stream

__all__ = ["Adapters", "Batch", "Counters"]


class Adapters(Protocol):
    """What the hub needs of the adapter store."""

    async def acquire(self, ref: RevisionRef) -> None:
        """Make ``ref.adapter`` servable and hold it. Raises AdapterError."""
        ...

    async def acquire_directory(self, path: str, name: str) -> str:
        """As ``acquire`` for the adapter that is in a directory now; its digest."""
        ...

    def release(self, digest: str) -> None:
        """Undo one ``acquire``."""
        ...

    async def create(self, config: Mapping[str, object]) -> str:
        """Make the zero adapter of a PEFT config; its digest. Raises AdapterError."""
        ...

    def held(self) -> Mapping[str, str]:
        """Digests that can be served now, with the name each was asked for by."""
        ...

    async def close(self) -> None:
        """Wait for what is under way."""
        ...


class Batch:
    """Streams of one revision on their way into the engine."""

    __slots__ = ("ref", "requests", "streams")

    def __init__(self, ref: RevisionRef) -> None:
        self.ref = ref
        self.requests: list[EngineRequest] = []
        self.streams: list[Stream] = []


class Counters:
    """Totals since the start, for the metrics."""

    __slots__ = ("ended", "started", "tokens")

    def __init__(self) -> None:
        self.started = 0
        self.tokens = 0
        self.ended = [0] * (HANDED_OVER + 1)
