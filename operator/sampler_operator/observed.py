"""What the operator remembers of objects it sees: small projections, made when an event arrives."""

import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from . import names
from .objects import Manifest
from .spec.deployment import Metadata

__all__ = [
    "ChildView",
    "ContainerView",
    "DeploymentView",
    "Observed",
    "PodView",
    "child_view",
    "deployment_view",
    "pod_view",
]


class ChildView(msgspec.Struct, frozen=True):
    """A child: identity, and as JSON what a manifest of it says. ``deployment`` has the status of a
    Deployment."""

    ref: names.Ref
    owner: str
    """uid of the SamplerDeployment."""
    fleet: str
    uid: str
    version: str
    """resourceVersion."""
    body: bytes
    """JSON, deflated: thousands of these are kept, and few of them are read."""
    applied: str = ""
    """Digest of the manifest whose apply was answered with exactly this object."""
    deployment: "DeploymentView | None" = None

    def manifest(self) -> Manifest:
        """The parts of the object that manifests speak of."""
        manifest: Manifest = msgspec.json.decode(zlib.decompress(self.body))
        return manifest


class ConditionView(msgspec.Struct, frozen=True):
    """A condition of a Deployment or pod."""

    status: str
    reason: str = ""
    message: str = ""


class DeploymentView(msgspec.Struct, frozen=True):
    """Counts and conditions of a Deployment; counts are of pods."""

    generation: int
    observed_generation: int
    replicas: int
    updated: int
    ready: int
    available: int
    conditions: dict[str, ConditionView]


class ContainerView(msgspec.Struct, frozen=True):
    """State of a container: what it waits for, how it and its predecessor ended."""

    name: str
    is_init: bool
    is_running: bool
    is_ready: bool
    restarts: int
    container_id: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    ended_reason: str = ""
    ended_message: str = ""
    ended_code: int | None = None
    ran_seconds: float | None = None
    """How long it ran before it ended."""
    is_started: bool = False
    """Its startup probe has passed, or it has none."""


class PodView(msgspec.Struct, frozen=True):
    """A pod of a fleet. ``created`` is RFC 3339."""

    name: str
    uid: str
    fleet: str
    template: str
    created: str
    phase: str
    ip: str = ""
    manage_port: int = 0
    """Where the management port is, if not at its usual number (the local runtime)."""
    node: str = ""
    is_ready: bool = False
    is_leaving: bool = False
    adapters_hash: str = ""
    status_reason: str = ""
    status_message: str = ""
    conditions: dict[str, ConditionView] = {}
    containers: tuple[ContainerView, ...] = ()

    @property
    def life(self) -> str:
        """Changes when the pod or its server starts anew: what was known of it is void then."""
        server = next((c for c in self.containers if c.name == names.CONTAINER), None)
        return f"{self.uid}/{server.container_id if server is not None else ''}"


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a pass knows before it decides: the CR, its children and its pods."""

    sd: Manifest
    children: Mapping[names.Ref, ChildView] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()

    def deployment(self, name: str) -> ChildView | None:
        """The Deployment of that name, if it exists."""
        return self.children.get(names.Ref("Deployment", name))


_FAST = 1

_META_KEPT = ("name", "namespace", "labels", "annotations", "ownerReferences")


def _owner(meta: Mapping[str, Any]) -> str:
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == names.KIND:
            return sys.intern(str(reference["uid"]))
    return ""


def child_view(obj: Mapping[str, Any]) -> ChildView:
    """Project a child."""
    meta = obj["metadata"]
    kept = {name: meta[name] for name in _META_KEPT if name in meta}
    body = {
        name: value
        for name, value in obj.items()
        if name not in ("metadata", "status", "kind", "apiVersion")
    }
    return ChildView(
        ref=names.Ref(sys.intern(obj["kind"]), meta["name"]),
        owner=_owner(meta),
        fleet=(meta.get("labels") or {}).get(names.FLEET_LABEL, ""),
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        body=zlib.compress(msgspec.json.encode({"metadata": kept, **body}), _FAST),
        deployment=deployment_view(obj) if obj["kind"] == "Deployment" else None,
    )


def _conditions(found: Iterable[Mapping[str, Any]]) -> dict[str, ConditionView]:
    return {
        str(condition["type"]): ConditionView(
            str(condition.get("status", "")),
            str(condition.get("reason") or ""),
            str(condition.get("message") or ""),
        )
        for condition in found
    }


def deployment_view(obj: Mapping[str, Any]) -> DeploymentView:
    """Project the status of a Deployment."""
    status = obj.get("status") or {}
    return DeploymentView(
        generation=obj["metadata"].get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        conditions=_conditions(status.get("conditions") or ()),
    )


def _ran_seconds(ended: Mapping[str, Any]) -> float | None:
    try:
        start, end = (datetime.fromisoformat(ended[name]) for name in ("startedAt", "finishedAt"))
    except (KeyError, TypeError, ValueError):
        return None
    return (end - start).total_seconds()


def _containers(status: Mapping[str, Any]) -> Iterable[ContainerView]:
    for field_name, is_init in (("initContainerStatuses", True), ("containerStatuses", False)):
        for container in status.get(field_name) or ():
            state = container.get("state") or {}
            waiting = state.get("waiting") or {}
            last = container.get("lastState") or {}
            ended = state.get("terminated") or last.get("terminated") or {}
            yield ContainerView(
                name=container["name"],
                is_init=is_init,
                is_running="running" in state,
                is_ready=bool(container.get("ready")),
                restarts=container.get("restartCount", 0),
                container_id=container.get("containerID", ""),
                waiting_reason=waiting.get("reason", ""),
                waiting_message=waiting.get("message", ""),
                ended_reason=ended.get("reason", ""),
                ended_message=ended.get("message", ""),
                ended_code=ended.get("exitCode"),
                ran_seconds=_ran_seconds(ended),
                is_started=bool(container.get("started")),
            )


def pod_view(obj: Mapping[str, Any]) -> PodView:
    """Project a pod."""
    meta, status = obj["metadata"], obj.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = _conditions(status.get("conditions") or ())
    ready = conditions.get("Ready")
    return PodView(
        name=meta["name"],
        uid=meta.get("uid", ""),
        fleet=labels.get(names.FLEET_LABEL, ""),
        template=labels.get(names.TEMPLATE_HASH_LABEL, ""),
        created=meta.get("creationTimestamp") or "",
        phase=status.get("phase", ""),
        ip=status.get("podIP", ""),
        node=(obj.get("spec") or {}).get("nodeName", ""),
        is_ready=ready is not None and ready.status == "True",
        is_leaving=bool(meta.get("deletionTimestamp")),
        adapters_hash=(meta.get("annotations") or {}).get(names.ADAPTERS_HASH, ""),
        status_reason=status.get("reason", ""),
        status_message=status.get("message", ""),
        conditions=conditions,
        containers=tuple(_containers(status)),
    )


def metadata_of(obj: Mapping[str, Any]) -> Metadata:
    """Metadata of a custom resource, also of one whose spec is wrong."""
    return Metadata.model_validate(obj["metadata"])
