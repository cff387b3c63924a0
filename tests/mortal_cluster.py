"""The operator's way to the API server, cut at one of its writes: as if it was killed there."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Never, TypeVar

from sampler_operator.claims import AccessModes
from sampler_operator.kube.cluster import KubeCluster
from sampler_operator.names import Key, Ref
from sampler_operator.objects import Manifest, ref_of
from sampler_operator.observed import ChildView
from sampler_operator.ports import DeviceRoom, Event

__all__ = ["Cut", "Death", "MortalCluster", "Point"]

T = TypeVar("T")

Cut = Literal["after", "instead of"]
Point = tuple[str, int]
"""A write, and which of those that are called so: ``("apply Deployment fleet", 2)``."""


class Death:
    """Comes with the write ``at``, which is the last (``after``), or which is lost while those sent
    together with it arrive (``instead of``). With ``at`` None it does not come."""

    def __init__(self, cut: Cut = "after", at: Point | None = None) -> None:
        self.cut = cut
        self.at = at
        self.writes: list[Point] = []
        """Those that were begun, events apart."""
        self._has_come = threading.Event()

    def __str__(self) -> str:
        return f"killed {self.cut} {self.at} of {self.writes}"

    @property
    def has_come(self) -> bool:
        """Whatever was sent has arrived, and nothing else will."""
        return self._has_come.is_set()

    def come(self) -> None:
        """From now on."""
        self._has_come.set()

    def of(self, cluster: KubeCluster) -> "MortalCluster":
        """``cluster`` until then."""
        return MortalCluster(cluster, self)


class MortalCluster:
    """Implements ``ports.Cluster``."""

    def __init__(self, cluster: KubeCluster, death: Death) -> None:
        self._cluster = cluster
        self._death = death
        self._is_cut = False
        self._running = 0

    async def apply(self, manifest: Manifest, *, force: bool = True) -> ChildView:
        """See ``ports.Cluster``."""
        return await self._write(
            f"apply {ref_of(manifest)}", lambda: self._cluster.apply(manifest, force=force)
        )

    async def delete(self, key: Key, ref: Ref) -> None:
        """See ``ports.Cluster``."""
        await self._write(f"delete {ref}", lambda: self._cluster.delete(key, ref))

    async def patch_status(self, key: Key, uid: str, status: Manifest) -> Manifest:
        """See ``ports.Cluster``."""
        return await self._write("status", lambda: self._cluster.patch_status(key, uid, status))

    async def annotate_pod(self, key: Key, pod: str, annotations: Mapping[str, str]) -> None:
        """See ``ports.Cluster``."""
        await self._write(
            f"annotate {pod}", lambda: self._cluster.annotate_pod(key, pod, annotations)
        )

    def emit(self, sd: Manifest, event: Event) -> None:
        """See ``ports.Cluster``: events are written beside the passes."""
        self._cluster.emit(sd, event)

    async def pod_warnings(self, key: Key, uid: str) -> list[Event]:
        """See ``ports.Cluster``."""
        return await self._cluster.pod_warnings(key, uid)

    async def device_room(self, resource: str) -> DeviceRoom | None:
        """See ``ports.Cluster``."""
        return await self._cluster.device_room(resource)

    async def access_modes(self, key: Key, claim: str) -> AccessModes | None:
        """See ``ports.Cluster``."""
        return await self._cluster.access_modes(key, claim)

    async def _write(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        if self._is_cut:
            return await self._never()
        death = self._death
        point = what, 1 + sum(what == former for former, _ in death.writes)
        death.writes.append(point)
        if point == death.at:
            if death.cut == "instead of":
                # What is sent in the same turn of the loop is on its way already.
                asyncio.get_running_loop().call_soon(self._sever)
                return await self._never()
            self._is_cut = True
        self._running += 1
        try:
            return await call()
        finally:
            self._running -= 1
            self._note()

    def _sever(self) -> None:
        self._is_cut = True
        self._note()

    def _note(self) -> None:
        if self._is_cut and not self._running:
            self._death.come()

    async def _never(self) -> Never:
        self._note()
        await asyncio.Future[None]()
        raise AssertionError("a future that nobody sets was set")
