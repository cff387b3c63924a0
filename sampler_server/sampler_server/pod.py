"""The management port of a pod with several engines: asks each of them, answers for all."""

import asyncio
import os
from collections.abc import Callable, Sequence

import httpx
import msgspec

from sampler_api.errors import EngineFailed, SamplerError, error_from_wire
from sampler_api.fleet import ReplicaStatus, WeightsUpdate, WeightsUpdated
from sampler_api.names import WEIGHTS_PATH

from .pod_status import merged_metrics, merged_status
from .settings import ServeSettings

__all__ = ["Pod"]

_ASK_SECONDS = 3.0


class Pod:
    """Implements ``routes.manage.Managed`` over the management ports of engines on loopback.

    ``is_up(n)`` says whether engine ``n`` has begun to serve since it was last started: of one that
    starts again nobody expects an answer, and it must not cost the others their life. ``drain``
    ends the pod.
    """

    def __init__(
        self,
        ports: Sequence[int],
        settings: ServeSettings,
        is_up: Callable[[int], bool],
        drain: Callable[[str], None],
    ) -> None:
        self._urls = [f"http://127.0.0.1:{port}" for port in ports]
        self._settings = settings
        self._is_up = is_up
        self._drain = drain
        self._http = httpx.AsyncClient(timeout=_ASK_SECONDS, trust_env=False)

    async def close(self) -> None:
        """End the connections to the engines."""
        await self._http.aclose()

    async def status(self) -> ReplicaStatus:
        """See ``Managed``."""
        answers = await self._ask_all("/status")
        settings = self._settings
        return merged_status(
            [_status(answer) for answer in answers], settings.replica, settings.fleet, os.getpid()
        )

    async def metrics(self) -> bytes:
        """See ``Managed``."""
        answers = await self._ask_all("/metrics")
        return merged_metrics([answer.text if answer is not None else None for answer in answers])

    async def death(self) -> str:
        """See ``Managed``."""
        for number, answer in enumerate(await self._ask_all("/livez")):
            if self._is_up(number) and (answer is None or not answer.is_success):
                what = "does not answer" if answer is None else "has stalled"
                return f"engine {number} {what}"
        return ""

    async def update_weights(self, wanted: WeightsUpdate) -> WeightsUpdated:
        """See ``Managed``; one engine after the other, so that the others serve meanwhile.

        The first failure ends it: engines before that one have the new base then, and the pod is
        not ready until all have the same.
        """
        updated: list[WeightsUpdated] = []
        for number, url in enumerate(self._urls):
            try:
                updated.append(await self._update(url, wanted))
            except SamplerError as error:
                told = f"engine {number} of {len(self._urls)}: {error.message}"
                if updated:
                    told += f"; {len(updated)} before it serve {updated[0].base} already"
                raise type(error)(told, error.field) from None
        return updated[0]

    async def _update(self, url: str, wanted: WeightsUpdate) -> WeightsUpdated:
        try:
            answer = await self._http.post(
                url + WEIGHTS_PATH, content=msgspec.json.encode(wanted), timeout=None
            )
            if answer.is_success:
                return msgspec.json.decode(answer.content, type=WeightsUpdated)
            told = answer.json()["error"]
            error = error_from_wire(str(told["code"]), str(told["message"]), told["field"])
        except (httpx.HTTPError, msgspec.MsgspecError, ValueError, KeyError, TypeError) as problem:
            raise EngineFailed(f"no answer: {problem}") from None
        raise error

    def drain(self, reason: str) -> None:
        """See ``Managed``."""
        self._drain(reason)

    async def _ask_all(self, path: str) -> list[httpx.Response | None]:
        return await asyncio.gather(*(self._ask(url + path) for url in self._urls))

    async def _ask(self, url: str) -> httpx.Response | None:
        try:
            return await self._http.get(url)
        except httpx.HTTPError:
            return None


def _status(answer: httpx.Response | None) -> ReplicaStatus | None:
    if answer is None or not answer.is_success:
        return None
    try:
        return msgspec.json.decode(answer.content, type=ReplicaStatus)
    except msgspec.MsgspecError:
        return None
