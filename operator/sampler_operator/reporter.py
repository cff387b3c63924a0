"""Asks replicas for their status, as seldom as ``reports`` allows, and asks for a pass on news."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from .errors import Unreachable
from .names import Key
from .observed import PodView
from .ports import Enqueue, Replicas
from .reports import (
    FIRST_DELAY,
    Report,
    current,
    is_askable,
    is_settled,
    next_delay,
    steady,
)

__all__ = ["Reporter"]

log = logging.getLogger(__name__)

_AT_ONCE = 32


class _Asking:
    """One replica that is being asked until its report is settled."""

    __slots__ = ("adapters_hash", "pod", "task", "wakeup")

    def __init__(self, pod: PodView, adapters_hash: str) -> None:
        self.pod = pod
        self.adapters_hash = adapters_hash
        self.wakeup = asyncio.Event()
        self.task: asyncio.Task[None]


class Reporter:
    """Keeps the last report of every replica. All methods on one loop."""

    def __init__(self, replicas: Replicas, enqueue: Enqueue) -> None:
        self._replicas = replicas
        self._enqueue = enqueue
        self._reports: dict[Key, dict[str, Report]] = {}
        self._asking: dict[tuple[Key, str], _Asking] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._news: Counter[Key] = Counter()

    def reports(self, key: Key, pods: tuple[PodView, ...]) -> Mapping[str, Report]:
        """What the pods last said, by pod name."""
        return current(pods, self._reports.get(key, {}))

    def stamp(self, key: Key) -> int:
        """Grows with each new report."""
        return self._news[key]

    def expect(self, key: Key, pods: tuple[PodView, ...], adapters_hash: str) -> None:
        """These are the pods now, and what they should have taken in: ask those that need it."""
        known = self._reports[key] = current(pods, self._reports.get(key, {}))
        names = {pod.name for pod in pods}
        for owner, name in list(self._asking):
            if owner == key and name not in names:
                self._stop(owner, name)
        for pod in pods:
            asking = self._asking.get((key, pod.name))
            if not is_askable(pod) or is_settled(pod, known.get(pod.name), adapters_hash):
                if asking is not None:
                    self._stop(key, pod.name)
            elif asking is None:
                asking = self._asking[key, pod.name] = _Asking(pod, adapters_hash)
                asking.task = asyncio.create_task(self._ask(key, asking))
            else:
                is_news = (asking.pod.is_ready, asking.pod.life, asking.adapters_hash) != (
                    pod.is_ready,
                    pod.life,
                    adapters_hash,
                )
                asking.pod, asking.adapters_hash = pod, adapters_hash
                if is_news:
                    asking.wakeup.set()

    def forget(self, key: Key) -> None:
        """The SamplerDeployment is gone."""
        self._reports.pop(key, None)
        del self._news[key]
        for owner, name in list(self._asking):
            if owner == key:
                self._stop(owner, name)

    async def close(self) -> None:
        """Stop asking."""
        tasks = [asking.task for asking in self._asking.values()]
        for key, name in list(self._asking):
            self._stop(key, name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, key: Key, name: str) -> None:
        self._asking.pop((key, name)).task.cancel()

    async def _ask(self, key: Key, asking: _Asking) -> None:
        delay = FIRST_DELAY
        while True:
            pod = asking.pod
            asking.wakeup.clear()
            async with self._slots:
                report = await self._report(pod)
            reports = self._reports.setdefault(key, {})
            if reports.get(pod.name) != report:
                reports[pod.name] = report
                self._news[key] += 1
                self._enqueue(key)
            if is_settled(asking.pod, report, asking.adapters_hash):
                del self._asking[key, pod.name]
                return
            try:
                async with asyncio.timeout(delay):
                    await asking.wakeup.wait()
                delay = FIRST_DELAY
            except TimeoutError:
                delay = next_delay(delay)

    async def _report(self, pod: PodView) -> Report:
        try:
            status = await self._replicas.status(pod)
        except Unreachable as error:
            return Report(pod.life, pod.is_ready, error=error.message)
        except Exception as error:
            # Whatever a replica answers, it will be asked again.
            log.exception("pod %s: its status could not be read", pod.name)
            return Report(pod.life, pod.is_ready, error=f"{type(error).__name__}: {error}")
        return Report(pod.life, pod.is_ready, steady(status))
