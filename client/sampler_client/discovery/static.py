"""Endpoints that the caller lists."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from sampler_api.errors import InvalidRequest

from . import Endpoint

__all__ = ["StaticDiscovery"]


class StaticDiscovery:
    """A fixed, comma-separated list of ``http(s)://host:port``; the scheme may be left out."""

    fleet = ""
    certificate_name = ""

    def __init__(self, target: str) -> None:
        self.description = target
        self._endpoints = frozenset(_endpoint(part) for part in target.split(",") if part.strip())
        if not self._endpoints:
            raise InvalidRequest(
                "endpoints: the list is empty; give http://host:port, several separated by commas",
                "endpoints",
            )

    async def watch(self) -> AsyncIterator[frozenset[Endpoint]]:
        """The list, once; it never changes."""
        yield self._endpoints
        await asyncio.get_running_loop().create_future()


def _endpoint(text: str) -> Endpoint:
    url = text.strip().rstrip("/")
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or parts.path:
        raise InvalidRequest(f"endpoints: {text.strip()!r} is not http://host:port", "endpoints")
    return Endpoint(url)
