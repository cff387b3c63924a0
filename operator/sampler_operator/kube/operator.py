"""One operator process: connects, builds the parts, runs until it is told to stop."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import kopf
from prometheus_client import REGISTRY, CollectorRegistry

from ..errors import OperatorError
from ..metrics import OperatorMetrics
from ..names import Key
from ..plan import BuildSettings
from ..reconciler import Reconciler
from ..replica_http import HttpReplicas
from ..reporter import Reporter
from ..settings import OperatorConfig
from ..workqueue import WorkQueue
from .api import KubeApi
from .check import require_crd
from .cluster import KubeCluster
from .handlers import operator_settings, register
from .informer import Informer
from .login import kubeconfig_login
from .probes import BEAT_SECONDS, Health
from .recorder import EventRecorder
from .resources import CHILDREN, PODS
from .sweeper import Sweeper
from .view import KubeView

__all__ = ["KubeOperator"]

log = logging.getLogger(__name__)

_ANEW_SECONDS: Final = 1.0


def _now() -> datetime:
    return datetime.now(UTC)


def _is_kind_gone(error: BaseException) -> bool:
    """kopf ends when it opens a watch of a kind whose CRD was deleted a moment before."""
    return getattr(error, "status", None) == 404


class KubeOperator:
    """The parts of an operator, and its life. Tests hand in a ``build`` of their own."""

    def __init__(
        self,
        config: OperatorConfig,
        build: BuildSettings | None = None,
        registry: CollectorRegistry | None = None,
        wrap: Callable[[KubeCluster], Any] = lambda cluster: cluster,
    ) -> None:
        self._config = config
        self._build = build or BuildSettings(config.images, config.own_namespace)
        self._wrap = wrap
        self.metrics = OperatorMetrics(registry if registry is not None else REGISTRY)
        self.health = Health()
        self.view = KubeView()
        self.ready = asyncio.Event()
        """Everything is known, and passes run."""
        self.stop = asyncio.Event()
        """Set it to end the operator."""
        self.queue: WorkQueue
        self.api: KubeApi

    async def run(self) -> None:
        """Until ``stop``, SIGTERM or SIGINT. Raises OperatorError when it cannot begin."""
        self.api = await KubeApi.connect(self._config.kubeconfig)
        self._watching = await KubeApi.connect(self._config.kubeconfig, connections=0)
        replicas = HttpReplicas()
        try:
            while await self._live(replicas):
                log.warning("the CRD has gone for a moment; watching anew")
                await asyncio.sleep(_ANEW_SECONDS)
        finally:
            await replicas.close()
            await self._watching.close()
            await self.api.close()

    async def _live(self, replicas: HttpReplicas) -> bool:
        """Watch and work; whether to begin anew, as the CRD has gone and come.

        kopf looks for new kinds when their CRD changes, which may be before they are served.
        """
        config = self._config
        await require_crd(self.api, config.namespaces)
        self.view = KubeView()
        recorder = EventRecorder(self.api, _now, self.metrics, lambda: len(self.queue) > 0)
        enqueue: Callable[[Key], None] = lambda key: self.queue.add(key)  # noqa: E731
        sweeper = Sweeper(self.api, self.view, enqueue, config.namespaces)
        informers = [
            Informer(self._watching, self.view, enqueue, kind, resource, namespace)
            for kind, resource in {"Pod": PODS, **CHILDREN}.items()
            for namespace in config.namespaces or ("",)
        ]

        def applied(kind: str) -> None:
            for informer in informers:
                if informer.kind == kind:
                    informer.look()

        cluster = self._wrap(KubeCluster(self.api, recorder, applied, sweeper.ask))
        reporter = Reporter(replicas, enqueue)
        reconciler = Reconciler(self.view, cluster, reporter, self._build, _now, self.metrics)
        self.queue = WorkQueue(reconciler.reconcile, config.workers, self.metrics.passed)
        self.metrics.queue_depth = lambda: len(self.queue)
        must_begin_anew = False
        try:
            await self._watch(reconciler, reporter, recorder, sweeper, informers)
        except* OperatorError as group:
            raise group.exceptions[0] from None
        except* Exception as group:
            if not all(map(_is_kind_gone, group.exceptions)):
                raise
            must_begin_anew = not self.stop.is_set()
        finally:
            await reporter.close()
        return must_begin_anew

    async def _watch(
        self,
        reconciler: Reconciler,
        reporter: Reporter,
        recorder: EventRecorder,
        sweeper: Sweeper,
        informers: Sequence[Informer],
    ) -> None:
        config = self._config
        registry = kopf.OperatorRegistry()
        register(registry, self.view, self.queue.add, sweeper.ask, self._login)
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(helper)
                for helper in (
                    sweeper.run(),
                    *(informer.run() for informer in informers),
                    self._work([sweeper.done, *(informer.listed for informer in informers)]),
                    recorder.run(),
                    self._resync(reconciler),
                    self._tell_health(),
                )
            ]

            @kopf.on.cleanup(registry=registry)
            async def _(**_: Any) -> None:
                # Without watches no pass may run; and kopf would wait 5 s for these tasks to end.
                for helper in helpers:
                    helper.cancel()
                await reporter.close()

            await kopf.operator(
                registry=registry,
                settings=operator_settings(bool(config.namespaces)),
                standalone=True,
                clusterwide=not config.namespaces,
                namespaces=config.namespaces,
                stop_flag=self.stop,
            )

    async def _work(self, known: Iterable[asyncio.Event]) -> None:
        """No pass before everything is known: a child that is not seen yet would be made again."""
        for event in known:
            await event.wait()
        # What is here by now stays: a collection that looks through it takes longer than a pass.
        gc.collect()
        gc.freeze()
        self.ready.set()
        await self.queue.run()

    async def _login(self, **arguments: Any) -> Any:
        if self._config.kubeconfig is None:
            found = kopf.login_with_service_account(**arguments)
            if found is not None:
                return found
        return await kubeconfig_login(self.api)

    async def _resync(self, reconciler: Reconciler) -> None:
        """Level, not edge: what an event has not told, a look at everything does. One fleet after
        the other, in equal steps over the time: what changes meanwhile does not wait for them."""
        await self.ready.wait()
        seconds = self._config.resync_seconds
        await asyncio.sleep(seconds)
        while True:
            keys = self.view.all_keys()
            if not keys:
                await asyncio.sleep(seconds)
            for key in keys:
                reconciler.look_anew(key)
                self.queue.add(key)
                await asyncio.sleep(seconds / len(keys))

    async def _tell_health(self) -> None:
        while True:
            self.health.beat()
            self.health.is_ready = self.ready.is_set()
            await asyncio.sleep(BEAT_SECONDS)
