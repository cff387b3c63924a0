"""The operator in a thread of the test's process: for layouts, clocks and clusters of the test's
own. Tests that need no such thing start a process.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry
from tests.proxy import wait_until

from sampler_operator.kube.cluster import KubeCluster
from sampler_operator.kube.operator import KubeOperator
from sampler_operator.plan import BuildSettings
from sampler_operator.settings import OperatorConfig

__all__ = ["IMAGES", "OperatorThread"]

IMAGES: Final = {engine: f"registry.example/{engine}:1" for engine in ("vllm", "torch", "sim")}

_END_SECONDS: Final = 20.0


class OperatorThread:
    """An operator of some namespaces; a ``with`` block starts it and ends it.

    ``wrap`` is put around its writes, see ``KubeOperator``.
    """

    def __init__(
        self,
        kubeconfig: Path,
        *namespaces: str,
        build: BuildSettings | None = None,
        wrap: Callable[[KubeCluster], Any] = lambda cluster: cluster,
        resync_seconds: float = 600.0,
    ) -> None:
        self._config = OperatorConfig(
            str(kubeconfig), namespaces, images=IMAGES, resync_seconds=resync_seconds
        )
        self._build = build
        self._wrap = wrap
        self._registry = CollectorRegistry()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None]
        self._operator: KubeOperator | None = None
        self._thread = threading.Thread(target=self._live, name="operator")

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.is_ready or not self._thread.is_alive(), "the operator is ready")
        if not self._thread.is_alive():
            self._raise()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_alive() and self._operator is not None:
            self._call(self._operator.stop.set)
        self._thread.join(_END_SECONDS)
        assert not self._thread.is_alive(), "the operator does not end"
        if error is None:
            self._raise()

    @property
    def is_ready(self) -> bool:
        """It knows everything, and passes run."""
        return self._operator is not None and self._operator.ready.is_set()

    def kill(self) -> None:
        """Take all its tasks away. What they would still write must be held back by ``wrap``."""
        self._call(self._task.cancel)
        self._thread.join(_END_SECONDS)
        assert not self._thread.is_alive(), "the operator does not end"
        if isinstance(self._error, asyncio.CancelledError):
            self._error = None

    def writes(self) -> dict[tuple[str, str], int]:
        """What it has written, by kind and verb; events apart."""
        return {
            (sample.labels["kind"], sample.labels["verb"]): int(sample.value)
            for metric in self._registry.collect()
            for sample in metric.samples
            if sample.name == "sampler_operator_writes_total"
        }

    def passes(self) -> int:
        """How many have ended well."""
        name, labels = "sampler_operator_reconciles_total", {"result": "ok"}
        return int(self._registry.get_sample_value(name, labels) or 0)

    def _live(self) -> None:
        selector = selectors.DefaultSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            self._loop = runner.get_loop()
            at_rest = len(selector.get_map())
            try:
                runner.run(self._run())
            except BaseException as error:
                self._error = error
            runner.run(_closed(selector, at_rest))

    async def _run(self) -> None:
        self._task = asyncio.current_task()  # type: ignore[assignment]  # this runs in one
        self._operator = KubeOperator(self._config, self._build, self._registry, self._wrap)
        await self._operator.run()

    def _call(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            self._thread.join(_END_SECONDS)  # its loop has just been closed

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


async def _closed(selector: selectors.BaseSelector, at_rest: int) -> None:
    """Connections are closed some turns after they were told to. Who leaves the loop before is
    told that they were forgotten."""
    async with asyncio.timeout(_END_SECONDS):
        while len(selector.get_map()) > at_rest:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
