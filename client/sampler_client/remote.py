"""The sampler of a fleet."""

import os
from typing import Any

import msgspec

from sampler_api.errors import InvalidRequest
from sampler_api.names import ENV_TOKEN
from sampler_core.base import SamplerBase

from .discovery import Discovery, discovery_of
from .fleet import Fleet
from .settings import ClientSettings
from .trust import tls_context

__all__ = ["RemoteSampler"]


class RemoteSampler(SamplerBase):
    """Samples from the replicas of a fleet, and goes on when some of them leave.

    ``endpoints``, of which the first two and the last follow replicas that come and go:

    * ``"k8s://NAMESPACE/NAME"``, a SamplerDeployment of a cluster (``"k8s://NAME"``: in the
      namespace of this pod);
    * ``"dns://HOST"`` or ``"dns://HOST:PORT"``, whose records are the replicas;
    * ``"http://host:8001,http://host:8002"``, a list;
    * ``"local://NAME"``, a fleet of ``sampler up``.

    With ``ca_file`` replicas behind ``dns://`` speak TLS. ``token`` is sent as a bearer token
    (default: the environment variable ``SAMPLER_TOKEN``). Further keywords are the fields of
    :class:`~sampler_client.settings.ClientSettings`. Nothing connects before the first use; a
    pickled copy and a forked child connect anew.
    """

    def __init__(self, endpoints: str, *, token: str | None = None, **settings: Any) -> None:
        if not isinstance(endpoints, str):
            raise InvalidRequest(
                "endpoints: must be a text, http://host:port or several of them separated by "
                f"commas, not {endpoints!r}",
                "endpoints",
            )
        known = ClientSettings.__struct_fields__
        for name in settings:
            if name not in known:
                raise InvalidRequest(f"{name}: unknown setting; known: {', '.join(known)}", name)
        token = token if token is not None else os.environ.get(ENV_TOKEN) or None
        self._endpoints = endpoints
        self._settings = ClientSettings(token=token, **settings)
        if self._settings.ca_file is not None:
            # Told here, and not by every connection.
            tls_context(self._settings.ca_file)
        super().__init__(Fleet(self._discovery(), self._settings))

    def _discovery(self) -> Discovery:
        # Addresses of DNS do not tell; who names an authority means TLS.
        return discovery_of(self._endpoints, is_encrypted=self._settings.ca_file is not None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._endpoints, msgspec.structs.asdict(self._settings), self._state())


def _rebuild(endpoints: str, settings: dict[str, Any], state: dict[str, Any]) -> RemoteSampler:
    sampler = RemoteSampler(endpoints, **settings)
    sampler._set_state(state)
    return sampler
