"""Replicas over HTTP: ``GET /status`` of the management port."""

import httpx
import msgspec

from sampler_api.fleet import ReplicaStatus

from . import names
from .errors import Unreachable
from .observed import PodView

__all__ = ["HttpReplicas"]

_TIMEOUT_SECONDS = 3.0


class HttpReplicas:
    """Implements ``ports.Replicas``; ``close`` it at the end."""

    def __init__(self) -> None:
        # A proxy of the environment is for the world outside, never for pods.
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)
        self._decoder = msgspec.json.Decoder(ReplicaStatus)

    async def status(self, pod: PodView) -> ReplicaStatus:
        """Ask a pod. Raises Unreachable."""
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{pod.manage_port or names.manage_port()}/status"
        try:
            response = await self._client.get(url)
            response.raise_for_status()
            return self._decoder.decode(response.content)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"replica {pod.name}: no status from {url}: {reason}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
