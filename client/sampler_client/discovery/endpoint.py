"""Where one engine listens. Pure."""

import ipaddress
from urllib.parse import urlsplit

import msgspec

__all__ = ["Endpoint"]


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """The data port of one engine; ``url`` is ``http://host:port`` or ``https://host:port``.

    ``has_siblings``: whoever found it cannot know the ports of the other engines of its pod; its
    hello names them.
    """

    url: str
    has_siblings: bool = False

    @classmethod
    def of(
        cls, address: str, port: int, *, is_encrypted: bool = False, has_siblings: bool = False
    ) -> "Endpoint":
        """At an IP address; one address has one URL, however it is written."""
        ip = ipaddress.ip_address(address)
        host = f"[{ip}]" if ip.version == 6 else str(ip)
        scheme = "https" if is_encrypted else "http"
        return cls(f"{scheme}://{host}:{port}", has_siblings)

    @property
    def is_encrypted(self) -> bool:
        """It speaks TLS."""
        return self.url.startswith("https://")

    @property
    def session_url(self) -> str:
        """Where the session's WebSocket is."""
        return "ws" + self.url.removeprefix("http")

    def sibling(self, port: int) -> "Endpoint":
        """Another engine of the same pod."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition(":")[0]
        return Endpoint(f"{parts.scheme}://{host}:{port}")
