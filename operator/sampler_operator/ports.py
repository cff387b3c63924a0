"""The outside world as the reconciler sees it; each port has one adapter per runtime.

On Kubernetes: ``kube``. On one machine: ``local``.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

import msgspec

from sampler_api.fleet import ReplicaStatus

from .claims import AccessModes
from .names import Key, Ref
from .objects import Manifest
from .observed import ChildView, Observed, PodView

__all__ = ["Cluster", "DeviceRoom", "Enqueue", "Event", "Replicas", "View"]

Enqueue = Callable[[Key], None]
"""Ask for a pass."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a SamplerDeployment, for ``kubectl describe``."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


class DeviceRoom(msgspec.Struct, frozen=True):
    """Devices of one kind in the cluster: the most that one node has, and has free."""

    largest_node: int
    largest_free: int


class View(Protocol):
    """What has been seen so far; reading it costs no call."""

    def observed(self, key: Key) -> Observed | None:
        """The SamplerDeployment with its children and pods; ``None`` when it does not exist."""
        ...

    def stamp(self, key: Key) -> int | None:
        """Changes with everything that ``observed`` would give; ``None``: always look."""
        ...

    def wrote(self, key: Key, child: ChildView) -> None:
        """A child as the API answered a write: what is seen is not older from now on."""
        ...

    def wrote_sd(self, key: Key, sd: Manifest) -> None:
        """The SamplerDeployment as the API answered a write of its status."""
        ...


class Cluster(Protocol):
    """Writes, and the few reads that are made only when something is wrong.

    All raise ``ClusterError``: Refused, Denied, Missing, Unavailable.
    """

    async def apply(self, manifest: Manifest, *, force: bool = True) -> ChildView:
        """Server-side apply of a child; the object that came of it.

        Without ``force`` an object that somebody else made is left alone: Refused.
        """
        ...

    async def delete(self, key: Key, ref: Ref) -> None:
        """Delete a child; nothing when it is gone already."""
        ...

    async def patch_status(self, key: Key, uid: str, status: Manifest) -> Manifest:
        """Replace the status of a SamplerDeployment; the object that came of it."""
        ...

    async def annotate_pod(self, key: Key, pod: str, annotations: Mapping[str, str]) -> None:
        """Merge annotations into a pod; nothing when it is gone."""
        ...

    def emit(self, sd: Manifest, event: Event) -> None:
        """Record an event some time soon; under pressure it may be dropped."""
        ...

    async def pod_warnings(self, key: Key, uid: str) -> list[Event]:
        """Warnings about a pod, the newest first."""
        ...

    async def device_room(self, resource: str) -> DeviceRoom | None:
        """Room for an extended resource; ``None`` where nodes may not be read."""
        ...

    async def access_modes(self, key: Key, claim: str) -> AccessModes | None:
        """How a claim may be mounted; ``None`` when that is not known."""
        ...


class Replicas(Protocol):
    """Asks replicas for their status."""

    async def status(self, pod: PodView) -> ReplicaStatus:
        """``GET /status``. Raises ``Unreachable``."""
        ...


Sleep = Callable[[float], Awaitable[None]]
"""How a component waits; tests pass their own."""
