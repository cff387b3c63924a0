"""Reading calls to the Kubernetes API, as bytes.

``kubernetes.aio`` does what is easy to get wrong: kubeconfigs, credential plugins, rotated tokens.
The calls are httpx's: its connections are closed when it says so, and a client's loop may end right
after; those of that library's transport shut TLS down for as long as the other side takes.
"""

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol

import httpx
import msgspec
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException
from yaml import YAMLError

from .slices import ApiError, ApiRefusal

__all__ = ["KubeAccess", "opened_access"]

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 15.0


@asynccontextmanager
async def opened_access() -> AsyncIterator["KubeAccess"]:
    """Access with the credentials as they are now: of ``KUBECONFIG``, else of this pod's service
    account, else of ``~/.kube/config``. Raises ApiError, ApiRefusal where there are none."""
    configuration = Configuration()
    await _load(configuration)
    async with _http_client(configuration) as http:
        access = KubeAccess(configuration, http)
        try:
            yield access
        finally:
            await access.close()


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


def _http_client(configuration: Configuration) -> httpx.AsyncClient:
    try:
        tls = ssl.create_default_context(
            cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
        )
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ApiError(f"a certificate cannot be used: {error}") from None
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    # The proxy of the kubeconfig, and none of the environment.
    return httpx.AsyncClient(
        base_url=configuration.host, verify=tls, proxy=configuration.proxy, trust_env=False
    )


class _Closing(Protocol):
    async def aclose(self) -> None: ...


class KubeAccess:
    """A user at the API server, who asks one thing at a time."""

    def __init__(self, configuration: Configuration, http: httpx.AsyncClient) -> None:
        self._configuration = configuration
        self._http = http
        self._socket: _Closing | None = None

    async def close(self) -> None:
        """Close what httpx forgets: a socket whose TLS handshake is given up."""
        if self._socket is not None:
            await self._socket.aclose()

    async def _note(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._socket = info["return_value"]

    async def get(self, path: str, query: Mapping[str, str]) -> bytes:
        """The answer. Raises ApiError, ApiRefusal."""
        async with self._asked(path, query, _ANSWER_SECONDS) as response:
            return await response.aread()

    async def watch(
        self, path: str, query: Mapping[str, str], seconds: int
    ) -> AsyncGenerator[bytes]:
        """The lines of a watch that the server ends after so many seconds. Raises ApiError,
        ApiRefusal."""
        query = {**query, "watch": "true", "timeoutSeconds": str(seconds)}
        begun = b""
        async with self._asked(path, query, seconds + _ANSWER_SECONDS) as response:
            async for chunk in response.aiter_bytes():
                *lines, begun = (begun + chunk).split(b"\n")
                for line in lines:
                    yield line

    @asynccontextmanager
    async def _asked(
        self, path: str, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[httpx.Response]:
        limits = httpx.Timeout(silence_seconds, connect=_CONNECT_SECONDS)
        name = self._configuration.tls_server_name
        extensions: dict[str, Any] = {"trace": self._note}
        if name:
            extensions["sni_hostname"] = name
        with _typed_errors():
            headers = {"Accept": "application/json", **await self._authorization()}
            async with self._http.stream(
                "GET",
                path,
                params=query,
                headers=headers,
                timeout=limits,
                extensions=extensions,
            ) as response:
                if response.is_error:
                    told = _message(await response.aread()) or f"HTTP {response.status_code}"
                    raise ApiRefusal(told) if response.status_code == 403 else ApiError(told)
                yield response

    async def _authorization(self) -> dict[str, str]:
        """Reads a service account's token anew when it is a minute old."""
        settings = await self._configuration.auth_settings()
        token = settings.get("BearerToken")
        return {} if token is None else {"Authorization": str(token["value"]).strip()}


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException:
        raise ApiError("the API server does not answer in time") from None
    except (httpx.HTTPError, OSError) as error:
        raise ApiError(f"the API server cannot be reached: {error or type(error)}") from None
    except ConfigException as error:
        raise ApiError(f"credentials cannot be renewed: {error}") from None


def _message(answer: bytes) -> str:
    try:
        return " ".join(str(msgspec.json.decode(answer)["message"]).split())
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
