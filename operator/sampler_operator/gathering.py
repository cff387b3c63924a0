"""What a pass reads at the cluster beside what the watches show, and only where something is wrong:
events of pods that do not start, room for devices, how claims may be mounted.

Answers are kept for a while. A cluster's nodes and pods are much to read: passes that want to know
the same wait for one reading.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .claims import AccessModes, shared_claims, unshareable
from .errors import ClusterError
from .metrics import OperatorMetrics
from .names import Key
from .observed import Observed, PodView
from .ports import Cluster, DeviceRoom, Event
from .spec import SamplerDeployment
from .trouble import is_stuck, wants_room

__all__ = ["TROUBLE_SECONDS", "Gathered", "Gathering"]

log = logging.getLogger(__name__)

TROUBLE_SECONDS = 10.0
"""Where something is wrong it is looked at again so soon."""

_ROOM_SECONDS = 30.0
_CLAIM_SECONDS = 60.0
_MOST_PODS = 3
"""Whose events one pass reads: what keeps many pods of a fleet from starting is told by few."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """``warnings`` go by pod, the newest first, and ``modes`` by claim. ``look_after``: seconds
    after which an answer may have changed without a word of any watch."""

    warnings: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)
    room: DeviceRoom | None = None
    modes: Mapping[str, AccessModes] = field(default_factory=dict)
    look_after: float | None = None


class Gathering:
    """Reads for all passes of one operator. ``monotonic`` is a clock in seconds, which nobody
    sets back."""

    def __init__(
        self, cluster: Cluster, metrics: OperatorMetrics, monotonic: Callable[[], float]
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._monotonic = monotonic
        self._rooms: dict[str, tuple[float, DeviceRoom | None]] = {}
        self._reading_room = asyncio.Lock()
        self._claims: dict[tuple[str, str], tuple[float, AccessModes | None]] = {}

    async def gathered(
        self, key: Key, sd: SamplerDeployment, observed: Observed, now: datetime
    ) -> Gathered:
        """What this pass has to know. ``now`` is the time of day. Raises nothing of the cluster:
        what could not be read is missing."""
        warnings = await self._warnings(key, observed, now)
        room = await self._room(sd, observed)
        claims = shared_claims(sd) if sd.spec.replicas > 1 else {}
        modes = {
            claim: known
            for claim in dict.fromkeys(claims.values())
            if (known := await self._modes(key, claim)) is not None
        }
        look_after = None
        if warnings or room is not None:
            look_after = TROUBLE_SECONDS
        elif not modes.keys() >= set(claims.values()) or unshareable(
            claims, modes, sd.spec.replicas
        ):
            # Nobody watches claims: this one may be made later, or another one in its place.
            look_after = _CLAIM_SECONDS
        return Gathered(warnings, room, modes, look_after)

    async def _warnings(
        self, key: Key, observed: Observed, now: datetime
    ) -> Mapping[str, tuple[Event, ...]]:
        stuck = sorted(
            (pod for pod in observed.pods if is_stuck(pod, now)),
            key=lambda pod: (pod.created, pod.name),
            reverse=True,
        )[:_MOST_PODS]
        told = await asyncio.gather(*(self._warnings_of(key, pod) for pod in stuck))
        return {pod.name: events for pod, events in zip(stuck, told, strict=True)}

    async def _warnings_of(self, key: Key, pod: PodView) -> tuple[Event, ...]:
        try:
            return tuple(await self._cluster.pod_warnings(key, pod.uid))
        except ClusterError as error:
            self._metrics.failed(error)
            log.warning("%s: events of pod %s: %s", key, pod.name, error)
            return ()

    async def _room(self, sd: SamplerDeployment, observed: Observed) -> DeviceRoom | None:
        if not any(wants_room(pod, sd) for pod in observed.pods):
            return None
        resource = sd.spec.gpu.resource_name
        async with self._reading_room:
            known = self._rooms.get(resource)
            if known is None or self._monotonic() - known[0] >= _ROOM_SECONDS:
                room = await self._cluster.device_room(resource)
                known = self._rooms[resource] = self._monotonic(), room
        return known[1]

    async def _modes(self, key: Key, claim: str) -> AccessModes | None:
        at = key.namespace, claim
        known = self._claims.get(at)
        if known is None or self._monotonic() - known[0] >= _CLAIM_SECONDS:
            modes = await self._cluster.access_modes(key, claim)
            known = self._claims[at] = self._monotonic(), modes
        return known[1]
