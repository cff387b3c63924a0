"""The cluster of one fleet that is this machine: children are kept in memory, pods are processes.

It stands in for the API server and the Deployment controller; services, budgets and policies are
kept for comparison and do nothing.
"""

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .. import names
from ..claims import AccessModes
from ..errors import Missing
from ..names import Key
from ..objects import Manifest, ref_of
from ..observed import ChildView, Observed, child_view
from ..ports import DeviceRoom, Enqueue, Event
from ..spec.parse import parse
from .deployment import LocalDeployment
from .places import Places
from .pod import Machine, Pod

__all__ = ["LocalCluster"]

log = logging.getLogger(__name__)


class LocalCluster:
    """Implements ``ports.Cluster`` and ``ports.View``. ``enqueue`` is called for whatever
    changes."""

    def __init__(self, machine: Machine, enqueue: Enqueue) -> None:
        self._machine = machine
        self._enqueue = enqueue
        self._sd: Manifest | None = None
        self._children: dict[names.Ref, Manifest] = {}
        self._config_maps: dict[str, dict[str, str]] = {}
        self._versions = 0
        self.deployment = LocalDeployment(machine, self._config_maps, self._changed)

    # -- what the runtime does with it -------------------------------------------------------------

    @property
    def sd(self) -> Manifest | None:
        """The SamplerDeployment with its status."""
        return self._sd

    @property
    def key(self) -> names.Key | None:
        """Of the SamplerDeployment."""
        if self._sd is None:
            return None
        return names.Key(self._sd["metadata"]["namespace"], self._sd["metadata"]["name"])

    def submit(self, manifest: Manifest, uid: str, places: Places) -> int:
        """This is the SamplerDeployment now; its generation."""
        former, sd = self._sd, parse(manifest)
        generation = 1
        meta = {**manifest["metadata"], "namespace": sd.metadata.namespace, "uid": uid}
        meta["creationTimestamp"] = _now()
        if former is not None:
            meta["creationTimestamp"] = former["metadata"]["creationTimestamp"]
            generation = former["metadata"]["generation"]
            generation += former["spec"] != manifest["spec"]
        self.deployment.places = places
        self.deployment.device_resource = sd.spec.gpu.resource_name
        meta |= {"generation": generation, "resourceVersion": self._next_version()}
        self._sd = {
            **manifest,
            "metadata": meta,
            "status": former["status"] if former is not None else {},
        }
        self._changed()
        return generation

    @property
    def pods(self) -> tuple[Pod, ...]:
        """All pods, also those that leave."""
        return tuple(self.deployment.pods.values())

    async def close(self) -> None:
        """Let all pods leave, and wait for them."""
        await self.deployment.close()

    def _changed(self) -> None:
        key = self.key
        if key is not None:
            self._enqueue(key)

    def _next_version(self) -> str:
        self._versions += 1
        return str(self._versions)

    # -- View --------------------------------------------------------------------------------------

    def observed(self, key: names.Key) -> Observed | None:
        """See ``ports.View``."""
        if self._sd is None or key != self.key:
            return None
        children = (child_view(self._with_status(child)) for child in self._children.values())
        return Observed(
            self._sd,
            {child.ref: child for child in children},
            tuple(pod.view for pod in self.pods),
        )

    def stamp(self, key: names.Key) -> int | None:
        """See ``ports.View``: one fleet may be looked at every time."""
        return None

    def wrote(self, key: names.Key, child: ChildView) -> None:
        """Writes are seen at once."""

    def wrote_sd(self, key: names.Key, sd: Manifest) -> None:
        """Writes are seen at once."""

    def _with_status(self, child: Manifest) -> Manifest:
        if child["kind"] != "Deployment":
            return child
        return {**child, "status": self.deployment.status()}

    # -- Cluster -----------------------------------------------------------------------------------

    async def apply(self, manifest: Manifest, *, force: bool = True) -> ChildView:
        """See ``ports.Cluster``. Nobody else writes here, so the manifest is the whole object."""
        ref = ref_of(manifest)
        former = self._children.get(ref)
        kept = _without_nulls(manifest)
        meta = {**kept["metadata"], "resourceVersion": self._next_version()}
        if former is None:
            meta |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": _now()}
        else:
            known = former["metadata"]
            meta |= {name: known[name] for name in ("uid", "generation", "creationTimestamp")}
            meta["generation"] += former.get("spec") != kept.get("spec")
        child = self._children[ref] = {**kept, "metadata": meta}
        if ref.kind == "ConfigMap":
            self._config_maps[ref.name] = child.get("data", {})
            for pod in self.pods:
                pod.update_config_map(ref.name, self._config_maps[ref.name])
        elif ref.kind == "Deployment":
            self.deployment.update(child)
        self._changed()
        return child_view(self._with_status(child))

    async def delete(self, key: names.Key, ref: names.Ref) -> None:
        """See ``ports.Cluster``."""
        if self._children.pop(ref, None) is not None:
            self._changed()

    async def patch_status(self, key: names.Key, uid: str, status: Manifest) -> Manifest:
        """See ``ports.Cluster``."""
        if self._sd is None or key != self.key:
            raise Missing(f"there is no {names.KIND} {key}")
        self._sd = {**self._sd, "status": status}
        self._changed()
        return self._sd

    async def annotate_pod(self, key: names.Key, pod: str, annotations: Mapping[str, str]) -> None:
        """See ``ports.Cluster``."""
        found = self.deployment.pods.get(pod)
        if found is not None:
            found.annotate(annotations)
            self._changed()

    def emit(self, sd: Manifest, event: Event) -> None:
        """See ``ports.Cluster``."""
        log.info("%s: %s", event.reason, event.message)

    async def pod_warnings(self, key: names.Key, uid: str) -> list[Event]:
        """See ``ports.Cluster``."""
        return next((pod.warnings for pod in self.pods if pod.view.uid == uid), [])

    async def device_room(self, resource: str) -> DeviceRoom | None:
        """See ``ports.Cluster``; this machine is the one node."""
        devices = self._machine.devices
        return DeviceRoom(devices.number, devices.free())

    async def access_modes(self, key: Key, claim: str) -> AccessModes | None:
        """See ``ports.Cluster``; of one machine, all processes see all directories."""
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value
