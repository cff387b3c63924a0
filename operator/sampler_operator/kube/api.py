"""Calls to the Kubernetes API as JSON in and out, on ``kubernetes.aio``'s transport.

Typed models cost more time than the calls themselves, so none are made. The library still does what
is easy to get wrong: kubeconfig and service account, rotated tokens, TLS, connections.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse
from kubernetes.aio.config import (
    load_incluster_config,
    load_kube_config,
)
from kubernetes.aio.config.config_exception import ConfigException

from .. import names
from ..errors import ClusterError, Denied, Missing, NamespaceGoing, Refused, Unavailable

__all__ = ["APPLY", "MERGE", "KubeApi"]

_JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0)
# The API server sends a bookmark about once a minute; without a word for longer it is gone.
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=100.0)
# More do not make the API server faster, and each costs some 200 KiB for TLS.
_CONNECTIONS: Final = 16
# A token that cannot be had now may be had later.
_LOST: Final = (TimeoutError, aiohttp.ClientError, OSError, ConfigException)
_NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError)
_NO_RIGHT: Final = re.compile(r"cannot (\w+) resource")
# Answers of the admission plugin OwnerReferencesPermissionEnforcement. It may learn of a new kind
# half a minute late.
_NO_FINALIZERS: Final = "you can't set finalizers on"
_KIND_UNKNOWN_YET: Final = "cannot find RESTMapping"


class KubeApi:
    """One pool of connections to the API server; with ``connections`` 0 it has no bound, which
    watches need: each keeps one."""

    def __init__(self, configuration: Configuration, connections: int = _CONNECTIONS) -> None:
        # False would be 0 attempts to the library, which it never reaches: it asks on for ever.
        configuration.retries = None
        configuration.connection_pool_maxsize = connections
        # aiohttp would look for a proxy in the environment in two threads for each call; that of
        # the kubeconfig is in force all the same.
        configuration.client_session_kwargs = {"trust_env": False}
        self._client = ApiClient(configuration)
        self._host = configuration.host
        self.requests = 0
        """Calls made so far."""

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        connections: int = _CONNECTIONS,
    ) -> Self:
        """From a kubeconfig file, else from the pod that this runs in, else from the user's own.

        Raises Unavailable when there is none of them.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and context is None:
                try:
                    load_incluster_config(client_configuration=configuration)
                    return cls(configuration, connections)
                except ConfigException:
                    pass
            loader = await load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
            configuration.refresh_api_key_hook = _renewal(loader)  # type: ignore[assignment]  # untyped
        except (ConfigException, OSError) as error:
            raise Unavailable(f"no cluster to talk to: {error}") from None
        return cls(configuration, connections)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def configuration(self) -> Configuration:
        """Server and credentials."""
        configuration: Configuration = self._client.configuration
        return configuration

    async def authorization(self) -> str:
        """The value of a request's authorization header; empty with certificates alone. Raises
        Unavailable."""
        headers: dict[str, str] = {}
        try:
            await self._authorize(headers, "GET", "")
        except _LOST as error:
            raise Unavailable(f"no credentials: {error or type(error).__name__}") from None
        return headers.get("authorization", "")

    async def _authorize(self, headers: dict[str, str], method: str, path: str) -> None:
        await self._client.update_params_for_auth(
            headers, None, ["BearerToken"], path, method, None
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = _JSON,
        answer: Any = Any,
    ) -> Any:
        """One call; the answer, decoded as the type ``answer``: of large lists only what a struct
        names becomes an object. Raises ClusterError."""
        try:
            response = await self._send(method, path, query, body, content_type, _TIMEOUT)
            data = await response.read()
        except _LOST as error:
            raise _unavailable(method, path, error) from None
        if response.status >= 400:
            raise _error(response.status, data, f"{method} {path}")
        try:
            return msgspec.json.decode(data, type=answer)
        except _NO_JSON as error:
            # Something on the way to the API server has answered in its place.
            raise _unavailable(method, path, error) from None

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[Mapping[str, Any]]:
        """The events of a watch as they come, until the server ends it. Raises ClusterError."""
        query = {**query, "watch": "true"}
        try:
            response = await self._send("GET", path, query, None, _JSON, _WATCH_TIMEOUT)
            try:
                if response.status >= 400:
                    raise _error(response.status, await response.read(), f"watch {path}")
                rest = b""
                async for chunk in response.response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield msgspec.json.decode(line)
            finally:
                response.response.close()
        except (*_LOST, *_NO_JSON) as error:
            raise _unavailable("watch", path, error) from None

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> RESTResponse:
        url = self._host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": _JSON, "Content-Type": content_type}
        await self._authorize(headers, method, path)
        self.requests += 1
        response: RESTResponse = await self._client.rest_client.request(
            method, url, headers=headers, body=body, _request_timeout=limits
        )
        return response


def _renewal(loader: Any) -> Callable[[Configuration], Awaitable[None]]:
    """Asks a credential plugin for another token before the time of the last one is over; the
    library does so for service accounts alone."""
    asking = asyncio.Lock()

    async def renew(configuration: Configuration) -> None:
        # Of a token without a time, the loader would ask at each call.
        if not hasattr(loader, "exec_plugin_expiry"):
            return
        async with asking:
            # It asks only if the time is near; what goes wrong it logs, and the former token stays.
            await loader.load_from_exec_plugin()
            configuration.api_key["BearerToken"] = loader.token

    return renew


def _unavailable(method: str, path: str, error: Exception) -> Unavailable:
    return Unavailable(f"{method} {path}: {error or type(error).__name__}")


def _error(status: int, data: bytes, call: str) -> ClusterError:
    try:
        answer = msgspec.json.decode(data)
        message = " ".join(str(answer["message"]).split())
    except (*_NO_JSON, KeyError, TypeError):
        message = f"{call}: HTTP status {status}"
    if status == 403 and _is_namespace_going(data):
        return NamespaceGoing(message, field=str(status))
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


def _is_namespace_going(data: bytes) -> bool:
    try:
        causes = msgspec.json.decode(data)["details"]["causes"]
        return any(cause["reason"] == "NamespaceTerminating" for cause in causes)
    except (*_NO_JSON, KeyError, TypeError):
        return False
