"""Reading calls to the Kubernetes API, as bytes, on ``kubernetes.aio``'s transport.

The library does what is easy to get wrong: kubeconfig, credential plugins, service accounts and
their rotated tokens, TLS. Its typed models cost more than the calls, so none are made.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException
from yaml import YAMLError

from .slices import ApiError, ApiRefusal

__all__ = ["KubeAccess", "opened_access"]

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 15.0
_GRACE_SECONDS: Final = 15.0
"""A watch that the server should have ended by then hangs."""


@asynccontextmanager
async def opened_access() -> AsyncIterator["KubeAccess"]:
    """Access with the credentials as they are now: of ``KUBECONFIG``, else of this pod's service
    account, else of ``~/.kube/config``. Raises ApiError, ApiRefusal where there are none."""
    configuration = Configuration()
    # False would be 0 attempts to the library, which it never reaches: it asks on for ever.
    configuration.retries = None
    # aiohttp would look for a proxy in the environment; that of the kubeconfig is in force anyway.
    configuration.client_session_kwargs = {"trust_env": False}
    await _load(configuration)
    try:
        client = ApiClient(configuration)
    except OSError as error:
        raise ApiError(f"a certificate cannot be used: {error}") from None
    try:
        yield KubeAccess(client)
    finally:
        await client.close()


async def _load(configuration: Configuration) -> None:
    kubeconfig = os.environ.get("KUBECONFIG")
    try:
        if not kubeconfig:
            try:
                load_incluster_config(client_configuration=configuration)
                return
            except ConfigException:
                kubeconfig = "~/.kube/config"
        await load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    except ConfigException as error:
        raise ApiRefusal(f"no credentials: {error}") from None
    except (OSError, YAMLError) as error:
        raise ApiError(f"credentials cannot be read: {error}") from None


class KubeAccess:
    """A connection to the API server."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, path: str, query: Mapping[str, str]) -> bytes:
        """The answer. Raises ApiError, ApiRefusal."""
        with _typed_errors():
            response = await self._ask(path, query, aiohttp.ClientTimeout(total=_ANSWER_SECONDS))
            return await response.read()

    async def watch(
        self, path: str, query: Mapping[str, str], seconds: int
    ) -> AsyncGenerator[bytes]:
        """The lines of a watch that the server ends after so many seconds. Raises ApiError,
        ApiRefusal."""
        query = {**query, "watch": "true", "timeoutSeconds": str(seconds)}
        limits = aiohttp.ClientTimeout(
            total=seconds + _GRACE_SECONDS, sock_connect=_CONNECT_SECONDS
        )
        with _typed_errors():
            response = await self._ask(path, query, limits)
            try:
                async for line in response.content:
                    yield line
            finally:
                response.close()

    async def _ask(
        self, path: str, query: Mapping[str, str], limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        client = self._client
        url = f"{client.configuration.host}{path}?{urlencode(query)}"
        headers = {"Accept": "application/json"}
        # Reads a service account's token anew when it is a minute old.
        await client.update_params_for_auth(headers, None, ["BearerToken"], path, "GET", None)
        asked = await client.rest_client.request(
            "GET", url, headers=headers, _request_timeout=limits
        )
        response: aiohttp.ClientResponse = asked.response
        if response.status >= 400:
            told = _message(await response.read()) or f"HTTP status {response.status}"
            raise ApiRefusal(told) if response.status == 403 else ApiError(told)
        return response


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ApiError("the API server does not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ApiError(f"the API server cannot be reached: {error or type(error)}") from None
    except ConfigException as error:
        raise ApiError(f"credentials cannot be renewed: {error}") from None


def _message(answer: bytes) -> str:
    try:
        return " ".join(str(msgspec.json.decode(answer)["message"]).split())
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
