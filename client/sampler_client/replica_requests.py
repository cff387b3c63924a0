"""Plain HTTP requests to replicas, beside their sessions: adapters and tokenizer files.

Each request ends in an :data:`Answer`; what the answers of several replicas mean together is
decided by :func:`agreed`, which does no I/O.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec

from sampler_api.errors import (
    AdapterMissing,
    ConnectTimeout,
    NoReplica,
    ProgressTimeout,
    ProtocolError,
    SamplerError,
    error_from_wire,
)

from .settings import ClientSettings
from .trust import tls_context

__all__ = ["Answer", "HttpRequest", "agreed", "ask_all", "ask_in_turn", "http_client"]

Answer = dict[str, Any] | SamplerError
"""The JSON object of a success, or why there is none."""

_QUOTED_CHARACTERS = 200


class HttpRequest(msgspec.Struct, frozen=True):
    """What is asked of any number of replicas."""

    method: str
    path: str
    body: Mapping[str, object] | None = None

    def at(self, url: str) -> str:
        """The request to one replica, for messages."""
        return f"{self.method} {url}{self.path}"


def http_client(
    urls: Sequence[str], settings: ClientSettings, certificate_name: str = ""
) -> httpx.AsyncClient:
    """For one round of requests to ``urls``; made outside of the loop, as it reads certificates
    where one of them is encrypted. These must carry ``certificate_name``, or else the host that is
    asked."""

    async def expect_name(request: httpx.Request) -> None:
        if certificate_name:
            request.extensions["sni_hostname"] = certificate_name

    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    limits = httpx.Limits(max_connections=None)
    if any(url.startswith("https:") for url in urls):
        verify = tls_context(settings.ca_file)
    else:
        # Reading the system's authorities takes longer than publishing an adapter. This one trusts
        # nobody.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(
        headers=headers,
        limits=limits,
        trust_env=False,
        verify=verify,
        event_hooks={"request": [expect_name]},
    )


async def ask_all(
    http: httpx.AsyncClient, request: HttpRequest, urls: Sequence[str], settings: ClientSettings
) -> dict[str, Answer]:
    """Ask all replicas at once; those that are slow are not waited for, once one has succeeded."""
    answers: dict[str, Answer] = {}
    loop = asyncio.get_running_loop()
    seconds = settings.request_timeout

    async def ask(url: str) -> None:
        answer = answers[url] = await _ask(http, request, url, _limits(settings, seconds))
        if isinstance(answer, dict):
            ends = loop.time() + settings.straggler_timeout
        elif _is_final(answer):
            ends = loop.time()
        else:
            return
        limit.reschedule(min(ends, limit.when() or ends))

    try:
        async with http, asyncio.timeout(seconds) as limit, asyncio.TaskGroup() as group:
            for url in urls:
                group.create_task(ask(url))
    except TimeoutError:
        pass
    missing = {url: _no_answer(request.at(url)) for url in urls if url not in answers}
    return answers | missing


async def ask_in_turn(
    http: httpx.AsyncClient, request: HttpRequest, urls: Sequence[str], settings: ClientSettings
) -> dict[str, Answer]:
    """Ask one replica after the other until one succeeds; the last is waited for longest."""
    answers: dict[str, Answer] = {}
    async with http:
        for url in urls:
            is_last = url == urls[-1]
            seconds = settings.request_timeout if is_last else settings.straggler_timeout
            answers[url] = await _ask(http, request, url, _limits(settings, seconds))
            answer = answers[url]
            if isinstance(answer, dict) or _is_final(answer):
                break
    return answers


def agreed(answers: Mapping[str, Answer]) -> dict[str, dict[str, Any]]:
    """The successes by replica, at least one. Raises what a replica refuses for good; where none
    has succeeded, an error that says why."""
    found = {url: answer for url, answer in answers.items() if isinstance(answer, dict)}
    errors = [answer for answer in answers.values() if isinstance(answer, SamplerError)]
    for error in errors:
        if _is_final(error):
            raise error
    if not found:
        reasons = dict.fromkeys(map(str, errors))
        raise type(errors[0])("; ".join(reasons), errors[0].field)
    return found


def _is_final(error: SamplerError) -> bool:
    """No other replica helps. That one cannot read an adapter is told now, not at a request."""
    return isinstance(error, AdapterMissing) or not error.retryable


def _limits(settings: ClientSettings, seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=settings.connect_timeout)


def _no_answer(where: str) -> SamplerError:
    return ProgressTimeout(f"{where}: no answer in time")


async def _ask(
    http: httpx.AsyncClient, request: HttpRequest, url: str, limits: httpx.Timeout
) -> Answer:
    where = request.at(url)
    try:
        reply = await http.request(
            request.method, url + request.path, json=request.body, timeout=limits
        )
    except httpx.ConnectTimeout:
        return ConnectTimeout(f"{where}: no connection in time")
    except httpx.TimeoutException:
        return _no_answer(where)
    except httpx.HTTPError as error:
        return NoReplica(f"{where}: {str(error) or type(error).__name__}")
    return _answer_of(where, reply)


def _answer_of(where: str, reply: httpx.Response) -> Answer:
    try:
        found = reply.json()
    except ValueError:
        found = None
    if isinstance(found, dict):
        if reply.is_success:
            return found
        told = found.get("error")
        if isinstance(told, dict) and isinstance(told.get("code"), str):
            return error_from_wire(told["code"], str(told.get("message", "")), told.get("field"))
    text = f"{where}: HTTP {reply.status_code}, not as a sampler server answers"
    if reply.text:
        text += f": {reply.text[:_QUOTED_CHARACTERS]}"
    # Whatever stands before a server that is down answers like this.
    return NoReplica(text) if reply.is_server_error else ProtocolError(text)
