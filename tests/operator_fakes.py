"""A cluster in memory, and replicas that say what they are told to: for unit tests of the operator.

The view is the operator's own; the fake cluster plays API server and watches. With ``is_lagging``
watches show nothing until :meth:`FakeCluster.deliver`.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from prometheus_client import CollectorRegistry
from tests.kube_objects import NOW, ago

from sampler_api.fleet import ReplicaStatus
from sampler_operator.claims import AccessModes
from sampler_operator.errors import ClusterError, Missing, Refused, Unreachable
from sampler_operator.kube.view import KubeView
from sampler_operator.metrics import OperatorMetrics
from sampler_operator.names import FLEET_LABEL, TEMPLATE_HASH_LABEL, Key, Ref
from sampler_operator.objects import Manifest, ref_of
from sampler_operator.observed import ChildView, PodView, child_view
from sampler_operator.plan import BuildSettings
from sampler_operator.pod.overrides import merged
from sampler_operator.ports import DeviceRoom, Event
from sampler_operator.reconciler import Reconciler
from sampler_operator.reporter import Reporter

__all__ = [
    "KEY",
    "SETTINGS",
    "Clock",
    "FakeCluster",
    "FakeReplicas",
    "Killed",
    "Operator",
    "replica_pod",
    "until",
]

KEY: Final = Key("rl", "fleet")
SETTINGS: Final = BuildSettings({kind: f"acme/{kind}:1" for kind in ("vllm", "torch", "sim")})


class Killed(Exception):
    """The operator's process ends here."""


class FakeCluster:
    """Implements ``ports.Cluster`` and tells ``view`` what the watches see.

    ``writes`` are all successful writes as text. ``fault`` is asked before each write and may raise
    in its place.
    """

    def __init__(self) -> None:
        self.view = KubeView()
        self.is_lagging = False
        self.objects: dict[Ref, Manifest] = {}
        self.sd: Manifest | None = None
        self.writes: list[str] = []
        self.events: list[Event] = []
        self.fault: Callable[[str], None] = lambda write: None
        self.warnings: list[Event] | ClusterError = []
        self.room: DeviceRoom | None = None
        self.modes: dict[str, AccessModes] = {}
        self.reads: list[str] = []
        self.together: asyncio.Barrier | None = None
        """Readings of events end together."""
        self._foreign: dict[Ref, Manifest] = {}
        self._pods: dict[str, Manifest] = {}
        self._versions = itertools.count(1)
        self._undelivered: deque[Callable[[], object]] = deque()

    # -- what people and other controllers do ------------------------------------------------------

    def put_sd(self, sd: Manifest) -> None:
        """Somebody writes the SamplerDeployment."""
        status = (self.sd or {}).get("status")
        made = {**sd, **({"status": status} if status and "status" not in sd else {})}
        self.sd = self._stamped(made, sd["metadata"]["uid"])
        self._show(self.sd)

    def delete_sd(self) -> None:
        """Somebody deletes it."""
        assert self.sd is not None
        gone, self.sd = self._stamped(self.sd, self.sd["metadata"]["uid"]), None
        self._later(lambda: self.view.end(gone))

    def put_pod(self, pod: Manifest) -> None:
        """A pod in its present state."""
        name = pod["metadata"]["name"]
        annotations = self._pods.get(name, {}).get("metadata", {}).get("annotations", {})
        meta = {**pod["metadata"], "annotations": annotations}
        self._pods[name] = self._stamped({**pod, "kind": "Pod", "metadata": meta}, meta["uid"])
        self._show(self._pods[name])

    def change(self, ref: Ref, patch: Manifest) -> None:
        """Somebody changes or adds fields of a child."""
        self._foreign[ref] = merged(self._foreign.get(ref, {}), patch)
        self._store(ref, merged(self.objects[ref], patch))

    def remove(self, ref: Ref) -> None:
        """Somebody deletes a child."""
        gone = self.objects.pop(ref)
        gone = self._stamped(gone, gone["metadata"]["uid"])
        self._later(lambda: self.view.end(gone))

    def deliver(self) -> None:
        """The watches catch up."""
        while self._undelivered:
            self._undelivered.popleft()()

    def outcome(self) -> dict[str, Any]:
        """All objects, without versions and uids."""
        children = {str(ref): _bare(obj) for ref, obj in sorted(self.objects.items())}
        return {**children, "status": (self.sd or {}).get("status")}

    # -- ports.Cluster -----------------------------------------------------------------------------

    async def apply(self, manifest: Manifest, *, force: bool = True) -> ChildView:
        """See ``ports.Cluster``."""
        ref = ref_of(manifest)
        self._about_to(f"apply {ref}")
        there = self.objects.get(ref)
        if there is not None and not force and child_view(there).owner != _owner(manifest):
            raise Refused(f"{ref} exists already and is not this fleet's", "metadata.name")
        # What others own is taken back where it differs, and stays where it does not.
        self._foreign[ref] = _without(self._foreign.get(ref, {}), manifest)
        return child_view(self._store(ref, merged(self._foreign[ref], manifest)))

    async def delete(self, key: Key, ref: Ref) -> None:
        """See ``ports.Cluster``."""
        self._about_to(f"delete {ref}")
        if ref in self.objects:
            self.remove(ref)

    async def patch_status(self, key: Key, uid: str, status: Manifest) -> Manifest:
        """See ``ports.Cluster``."""
        self._about_to("status")
        if self.sd is None:
            raise Missing(f"{key} does not exist")
        if self.sd["metadata"]["uid"] != uid:
            raise Refused("the uid in the precondition does not match")
        self.sd = self._stamped({**self.sd, "status": status}, uid)
        self._show(self.sd)
        return self.sd

    async def annotate_pod(self, key: Key, pod: str, annotations: Mapping[str, str]) -> None:
        """See ``ports.Cluster``."""
        self._about_to(f"annotate {pod}")
        if pod in self._pods:
            meta = self._pods[pod]["metadata"]
            made = {**self._pods[pod], "metadata": {**meta, "annotations": dict(annotations)}}
            self._pods[pod] = self._stamped(made, meta["uid"])
            self._show(self._pods[pod])

    def emit(self, sd: Manifest, event: Event) -> None:
        """See ``ports.Cluster``."""
        self.events.append(event)

    async def pod_warnings(self, key: Key, uid: str) -> list[Event]:
        """See ``ports.Cluster``."""
        self.reads.append(f"warnings {uid}")
        if self.together is not None:
            await self.together.wait()
        if isinstance(self.warnings, ClusterError):
            raise self.warnings
        return self.warnings

    async def device_room(self, resource: str) -> DeviceRoom | None:
        """See ``ports.Cluster``."""
        self.reads.append(f"room {resource}")
        await asyncio.sleep(0)
        return self.room

    async def access_modes(self, key: Key, claim: str) -> AccessModes | None:
        """See ``ports.Cluster``."""
        self.reads.append(f"claim {claim}")
        return self.modes.get(claim)

    # ----------------------------------------------------------------------------------------------

    def _about_to(self, write: str) -> None:
        self.fault(write)
        self.writes.append(write)

    def _stamped(self, obj: Manifest, uid: str) -> Manifest:
        meta = {**obj["metadata"], "uid": uid, "resourceVersion": str(next(self._versions))}
        return {**obj, "metadata": meta}

    def _store(self, ref: Ref, obj: Manifest) -> Manifest:
        there = self.objects.get(ref)
        if there is None or _bare(there) != _bare(obj):
            uid = there["metadata"]["uid"] if there is not None else f"u{next(self._versions)}"
            self.objects[ref] = self._stamped(obj, uid)
            self._show(self.objects[ref])
        return self.objects[ref]

    def _show(self, obj: Manifest) -> None:
        self._later(lambda: self.view.put(obj))

    def _later(self, event: Callable[[], object]) -> None:
        self._undelivered.append(event)
        if not self.is_lagging:
            self.deliver()


def _owner(manifest: Manifest) -> str:
    [owner] = manifest["metadata"]["ownerReferences"]
    return str(owner["uid"])


def _bare(obj: Manifest) -> Manifest:
    meta = {n: p for n, p in obj["metadata"].items() if n not in ("uid", "resourceVersion")}
    return {**obj, "metadata": meta}


def _without(foreign: Any, manifest: Any) -> Any:
    """What others say and ``manifest`` does not."""
    if not isinstance(foreign, dict) or not isinstance(manifest, dict):
        return None
    made = {n: p if n not in manifest else _without(p, manifest[n]) for n, p in foreign.items()}
    return {name: part for name, part in made.items() if part is not None}


def replica_pod(
    name: str = "p1",
    *,
    is_ready: bool = True,
    life: str = "c1",
    is_leaving: bool = False,
) -> Manifest:
    """A pod of the fleet whose server runs; ``life`` is the id of its container."""
    return {
        "metadata": {
            "name": name,
            "namespace": KEY.namespace,
            "uid": f"uid-{name}",
            "labels": {FLEET_LABEL: KEY.name, TEMPLATE_HASH_LABEL: "a"},
            "creationTimestamp": ago(60),
            **({"deletionTimestamp": ago(1)} if is_leaving else {}),
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
            "containerStatuses": [
                {"name": "server", "containerID": life, "state": {"running": {}}, "ready": is_ready}
            ],
        },
    }


class FakeReplicas:
    """Implements ``ports.Replicas``: answers by pod name, and who was asked, in order."""

    def __init__(self) -> None:
        self.answers: dict[str, ReplicaStatus | str] = {}
        self.asked: list[str] = []

    async def status(self, pod: PodView) -> ReplicaStatus:
        """See ``ports.Replicas``. An answer that is text is the reason of having none."""
        self.asked.append(pod.name)
        answer = self.answers.get(pod.name, "connection refused")
        if isinstance(answer, str):
            raise Unreachable(answer)
        return answer


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until it does."""
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("the loop has turned 200 times in vain")


class Clock:
    """A time that stands still until it is moved; ``step`` is how far off the time of day is."""

    def __init__(self) -> None:
        self.now = NOW
        self.step = timedelta()

    def __call__(self) -> datetime:
        """The time of day."""
        return self.now + self.step

    def monotonic(self) -> float:
        """Seconds."""
        return (self.now - NOW).total_seconds()


class Operator:
    """A reconciler with its reporter, as one process has them; ``queued`` are the asked passes."""

    def __init__(
        self,
        cluster: FakeCluster,
        replicas: FakeReplicas | None = None,
        clock: Clock | None = None,
        settings: BuildSettings = SETTINGS,
    ) -> None:
        self.cluster = cluster
        self.queued: list[Key] = []
        self.clock = clock or Clock()
        self.reporter = Reporter(replicas or FakeReplicas(), self.queued.append)
        self.metrics = OperatorMetrics(CollectorRegistry())
        self.reconciler = Reconciler(
            cluster.view,
            cluster,
            self.reporter,
            settings,
            self.clock,
            self.metrics,
            self.clock.monotonic,
        )

    async def act(self) -> float | None:
        """One pass."""
        return await self.reconciler.reconcile(KEY)

    async def written(self) -> list[str]:
        """What one pass writes."""
        before = len(self.cluster.writes)
        await self.act()
        return self.cluster.writes[before:]

    async def close(self) -> None:
        """The process ends in order."""
        await self.reporter.close()
