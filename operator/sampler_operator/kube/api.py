"""Calls to the Kubernetes API as JSON in and out, on ``kubernetes.aio``'s transport.

Typed models cost more time than the calls themselves, so none are made. The library still does what
is easy to get wrong: kubeconfig and service account, rotated tokens, TLS, connections.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import (
    load_incluster_config,
    load_kube_config,
)
from kubernetes.aio.config.config_exception import ConfigException

from .. import names
from ..errors import ClusterError, Denied, Missing, Refused, Unavailable

__all__ = ["APPLY", "MERGE", "KubeApi"]

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"

_TIMEOUT_SECONDS: Final = 30.0
# More do not make the API server faster, and each costs some 200 KiB for TLS.
_CONNECTIONS: Final = 16
_NO_RIGHT: Final = re.compile(r"cannot (\w+) resource")
# Answers of the admission plugin OwnerReferencesPermissionEnforcement. It may learn of a new kind
# half a minute late.
_NO_FINALIZERS: Final = "you can't set finalizers on"
_KIND_UNKNOWN_YET: Final = "cannot find RESTMapping"


class KubeApi:
    """One connection pool to the API server."""

    def __init__(self, configuration: Configuration) -> None:
        # False would be 0 attempts to the library, which it never reaches: it asks on for ever.
        configuration.retries = None
        configuration.connection_pool_maxsize = _CONNECTIONS
        # aiohttp would look for a proxy in the environment in two threads for each call; that of
        # the kubeconfig is in force all the same.
        configuration.client_session_kwargs = {"trust_env": False}
        self._client = ApiClient(configuration)
        self._host = configuration.host
        self.requests = 0
        """Calls made so far."""

    @classmethod
    async def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> Self:
        """From a kubeconfig file, else from the pod that this runs in, else from the user's own.

        Raises Unavailable when there is none of them.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and context is None:
                try:
                    load_incluster_config(client_configuration=configuration)
                    return cls(configuration)
                except ConfigException:
                    pass
            await load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
        except (ConfigException, OSError) as error:
            raise Unavailable(f"no cluster to talk to: {error}") from None
        return cls(configuration)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def configuration(self) -> Configuration:
        """Server and credentials."""
        configuration: Configuration = self._client.configuration
        return configuration

    async def authorization(self) -> str:
        """The value of a request's authorization header; empty with certificates alone."""
        headers: dict[str, str] = {}
        await self._client.update_params_for_auth(headers, None, ["BearerToken"], "", "GET", None)
        return headers.get("authorization", "")

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """One call; the decoded answer. Raises ClusterError."""
        url = self._host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content_type}
        await self._client.update_params_for_auth(
            headers, None, ["BearerToken"], path, method, None
        )
        self.requests += 1
        try:
            response = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=_TIMEOUT_SECONDS
            )
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {error or type(error).__name__}") from None
        if response.status >= 400:
            raise _error(response.status, data, f"{method} {path}")
        return msgspec.json.decode(data)


def _error(status: int, data: bytes, call: str) -> ClusterError:
    try:
        answer = msgspec.json.decode(data)
        message = " ".join(str(answer["message"]).split())
    except (msgspec.DecodeError, KeyError, TypeError):
        message = f"{call}: HTTP status {status}"
    if status == 403 and _KIND_UNKNOWN_YET in message:
        return Unavailable(message)
    if status == 403 and _NO_FINALIZERS in message:
        return Denied(f"{message} (it needs: update {names.PLURAL}/finalizers of {names.GROUP})")
    if status == 401 or (status == 403 and _NO_RIGHT.search(message)):
        return Denied(message)
    if status == 404:
        return Missing(message)
    if status in (400, 403, 409, 413, 422) or (status == 500 and "schema" in message):
        return Refused(message, field=str(status))
    return Unavailable(message)
