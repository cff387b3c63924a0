"""The replicas of a name in DNS: looked up every few seconds, for ever."""

import asyncio
import random
import re
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Final

from sampler_api.errors import InvalidRequest
from sampler_api.names import DATA_PORT

from . import DNS_SCHEME
from .endpoint import Endpoint

__all__ = ["AddressRecords", "DnsDiscovery", "resolved"]

Resolve = Callable[[str, int], Sequence[str]]

_ANSWER_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 5.0
_JITTER: Final = 0.2
_HOST: Final = re.compile(r"[A-Za-z0-9_]([-.\w]{0,251}\w)?\.?", re.ASCII)


def resolved(host: str, port: int) -> list[str]:
    """The addresses of a host, from whatever this machine asks for them; may block for long.
    Raises OSError, UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    # A replica with addresses of both families is there twice, and nothing tells them together.
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return [str(address[0]) for of, _, _, _, address in found if of == family]


class AddressRecords:
    """The A or AAAA records of one host, of which each is a pod with its first engine at ``port``.

    ``problem`` says why the last look found nothing; empty when it did not.
    """

    def __init__(
        self, host: str, port: int, *, is_encrypted: bool, resolve: Resolve = resolved
    ) -> None:
        self.host = host
        self.port = port
        self.problem = ""
        self._is_encrypted = is_encrypted
        self._resolve = resolve
        self._asked: asyncio.Future[Sequence[str] | Exception] | None = None

    async def look(self) -> frozenset[Endpoint] | None:
        """The records now; None when the resolver fails or takes too long, which says nothing about
        the replicas."""
        # A resolver that hangs is not asked again until it has answered.
        asked = self._asked = self._asked or self._ask()
        await asyncio.wait({asked}, timeout=_ANSWER_SECONDS)
        if not asked.done():
            self.problem = f"{self.host}: the resolver does not answer"
            return None
        self._asked = None
        answer = asked.result()
        if isinstance(answer, Exception):
            self.problem = f"{self.host}: {getattr(answer, 'strerror', None) or answer}"
            return None
        self.problem = ""
        return frozenset(
            Endpoint.of(address, self.port, is_encrypted=self._is_encrypted, has_siblings=True)
            for address in answer
        )

    def _ask(self) -> asyncio.Future[Sequence[str] | Exception]:
        """In a thread that nobody waits for when the process ends, unlike those of an executor."""
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[Sequence[str] | Exception] = loop.create_future()

        def ask() -> None:
            answer: Sequence[str] | Exception
            try:
                answer = self._resolve(self.host, self.port)
            except (OSError, UnicodeError) as error:
                answer = error
            # The loop may have ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(asked.set_result, answer)

        threading.Thread(target=ask, name="sampler-dns", daemon=True).start()
        return asked


class DnsDiscovery:
    """``dns://HOST[:PORT]``, best of a headless Service: one record for each replica.

    A record says nothing about TLS (``is_encrypted`` does) and about the ports of further engines
    of the same pod (their hello does). While the resolver fails, the last answer holds.
    """

    fleet = ""

    def __init__(
        self,
        target: str,
        *,
        is_encrypted: bool = False,
        resolve: Resolve = resolved,
        draw: Callable[[], float] = random.random,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        host, port = _host_and_port(target)
        self.certificate_name = host.rstrip(".")
        self._target = target.strip()
        self._records = AddressRecords(host, port, is_encrypted=is_encrypted, resolve=resolve)
        self._draw = draw
        self._pause_seconds = pause_seconds

    @property
    def description(self) -> str:
        """What the user wrote, and why it has no replica."""
        problem = self._records.problem
        return f"{self._target} ({problem})" if problem else self._target

    async def watch(self) -> AsyncGenerator[frozenset[Endpoint]]:
        """The addresses, and again whenever they change."""
        known: frozenset[Endpoint] | None = None
        while True:
            found = await self._records.look()
            if found is not None and found != known:
                known = found
                yield found
            # Many clients that started together do not ask together.
            await asyncio.sleep(self._pause_seconds * (1 + _JITTER * (2 * self._draw() - 1)))


def _host_and_port(target: str) -> tuple[str, int]:
    host, colon, port = target.strip().partition("://")[2].rstrip("/").partition(":")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not _HOST.fullmatch(host) or (colon and not 0 < number < 1 << 16):
        raise InvalidRequest(
            f"endpoints: {target.strip()!r} must be {DNS_SCHEME}://HOST or"
            f" {DNS_SCHEME}://HOST:PORT (the port of a pod's first engine, {DATA_PORT} if it is"
            " left out)",
            "endpoints",
        )
    return host, number or DATA_PORT
