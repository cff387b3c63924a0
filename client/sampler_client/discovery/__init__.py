"""Where the replicas of a fleet are: a discovery yields sets of endpoints, holds no connection."""

from collections.abc import AsyncIterator
from typing import Final, Protocol

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.local_state import LOCAL_SCHEME

from .endpoint import Endpoint

__all__ = ["Discovery", "Endpoint", "discovery_of"]

DNS_SCHEME: Final = "dns"
K8S_SCHEME: Final = "k8s"


class Discovery(Protocol):
    """Watches the endpoints of one fleet."""

    @property
    def description(self) -> str:
        """What the user wrote, for messages."""
        ...

    @property
    def fleet(self) -> str:
        """``namespace/name`` of the fleet that is meant; empty = that of the first replica."""
        ...

    @property
    def certificate_name(self) -> str:
        """The name that certificates of replicas must carry; empty = the host of their URL."""
        ...

    def watch(self) -> AsyncIterator[frozenset[Endpoint]]:
        """Yield the whole set as soon as it is known, then again whenever it changes. What cannot
        be asked for now is no change."""
        ...


def discovery_of(target: str, *, is_encrypted: bool = False) -> Discovery:
    """The discovery for what a user wrote: ``"http://host:8001,http://host:8002"``,
    ``"k8s://NAMESPACE/NAME"``, ``"dns://HOST:PORT"``, or ``"local://NAME"`` for a fleet of
    ``sampler up``.

    ``is_encrypted``: replicas speak TLS, where their discovery cannot say it. Raises
    InvalidRequest for a scheme that is not known, Unsupported where its library is missing.
    """
    from .static import StaticDiscovery

    first = target.strip().partition("://")[0] if "://" in target else "http"
    if first in ("http", "https"):
        return StaticDiscovery(target)
    if first == LOCAL_SCHEME:
        from .local import LocalDiscovery

        return LocalDiscovery(target)
    if first == DNS_SCHEME:
        from .dns import DnsDiscovery

        return DnsDiscovery(target, is_encrypted=is_encrypted)
    if first == K8S_SCHEME:
        try:
            from .k8s import K8sDiscovery
        except ModuleNotFoundError as error:
            raise Unsupported(
                f"endpoints: {first}:// needs {error.name}, which is not installed;"
                " pip install 'sampler-operator[k8s]'",
                "endpoints",
            ) from None
        return K8sDiscovery(target, is_encrypted=is_encrypted)
    raise InvalidRequest(
        f"endpoints: unknown scheme {first!r}; give http://host:port, several separated by commas,"
        f" {K8S_SCHEME}://NAMESPACE/NAME, {DNS_SCHEME}://HOST:PORT or {LOCAL_SCHEME}://NAME",
        "endpoints",
    )
