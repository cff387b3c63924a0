"""Where the replicas of a fleet are: a discovery yields sets of endpoints, holds no connection."""

from collections.abc import AsyncIterator
from typing import Protocol

from sampler_api.errors import InvalidRequest
from sampler_api.local_state import LOCAL_SCHEME

from .endpoint import Endpoint

__all__ = ["Discovery", "Endpoint", "discovery_of"]


class Discovery(Protocol):
    """Watches the endpoints of one fleet."""

    @property
    def description(self) -> str:
        """What the user wrote, for messages."""
        ...

    def watch(self) -> AsyncIterator[frozenset[Endpoint]]:
        """Yield the whole set at once, then again whenever it changes."""
        ...


def discovery_of(target: str) -> Discovery:
    """The discovery for what a user wrote: ``"http://host:8001,http://host:8002"``, or
    ``"local://NAME"`` for a fleet of ``sampler up``.

    Raises InvalidRequest for a scheme that is not known.
    """
    from .static import StaticDiscovery

    first = target.strip().partition("://")[0] if "://" in target else "http"
    if first in ("http", "https"):
        return StaticDiscovery(target)
    if first == LOCAL_SCHEME:
        from .local import LocalDiscovery

        return LocalDiscovery(target)
    raise InvalidRequest(
        f"endpoints: unknown scheme {first!r}; give http://host:port, several separated by commas,"
        " or local://NAME",
        "endpoints",
    )
