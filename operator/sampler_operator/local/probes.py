"""Probes of a container: what the kubelet asks, how often, and when it has made up its mind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from .command import HOST

__all__ = ["Probe", "Tally", "ask"]


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP probe; ``port`` is one of this machine. Times in seconds."""

    path: str
    port: int
    period: float = 10.0
    timeout: float = 1.0
    failures: int = 3
    successes: int = 1
    delay: float = 0.0

    @classmethod
    def of(cls, given: Mapping[str, Any] | None, ports: Mapping[str | int, int]) -> "Probe | None":
        """From a manifest; ``ports``: names and numbers of the container's ports to those of this
        machine. Only HTTP probes are asked."""
        if given is None or "httpGet" not in given:
            return None
        asked = given["httpGet"]
        return cls(
            path=asked.get("path", "/"),
            port=ports[asked["port"]],
            period=given.get("periodSeconds", 10),
            timeout=given.get("timeoutSeconds", 1),
            failures=given.get("failureThreshold", 3),
            successes=given.get("successThreshold", 1),
            delay=given.get("initialDelaySeconds", 0),
        )

    @property
    def patience(self) -> float:
        """How long it may fail from the start."""
        return self.delay + self.period * self.failures


class Tally:
    """Counts answers in a row: ``verdict`` changes when enough of them say the same."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._in_a_row = 0
        self._last: bool | None = None
        self.verdict: bool | None = None

    def took(self, succeeded: bool) -> bool | None:
        """One more answer; the verdict after it, ``None`` before there is any."""
        self._in_a_row = self._in_a_row + 1 if succeeded == self._last else 1
        self._last = succeeded
        needed = self._probe.successes if succeeded else self._probe.failures
        if self._in_a_row >= needed:
            self.verdict = succeeded
        return self.verdict


async def ask(client: httpx.AsyncClient, probe: Probe) -> str:
    """Ask once; empty when it succeeded, else why it did not."""
    url = f"http://{HOST}:{probe.port}{probe.path}"
    try:
        response = await client.get(url, timeout=probe.timeout)
    except httpx.HTTPError as error:
        return f"GET {probe.path}: {str(error) or type(error).__name__}"
    if 200 <= response.status_code < 400:
        return ""
    return f"GET {probe.path}: HTTP {response.status_code}: {response.text[:200].strip()}"
