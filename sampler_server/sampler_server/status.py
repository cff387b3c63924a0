"""A replica's own account, for whoever manages it."""

import os
from collections.abc import Callable

import msgspec

from sampler_api.errors import Busy
from sampler_api.fleet import ReplicaStatus, WeightsUpdate, WeightsUpdated

from .declaration import Declaration
from .hub import Hub
from .metrics import HubCollector, exposition
from .websocket import Sessions
from .weights import WeightUpdates

__all__ = ["ManagedReplica", "replica_status"]


class ManagedReplica:
    """Implements ``routes.manage.Managed`` for the engine of this process."""

    def __init__(
        self,
        hub: Hub,
        sessions: Sessions,
        declaration: Declaration,
        fleet: str,
        drain: Callable[[str], None],
        is_live: Callable[[], bool] = lambda: True,
        weights: WeightUpdates | None = None,
    ) -> None:
        self._weights = weights
        self._hub = hub
        self._sessions = sessions
        self._declaration = declaration
        self._fleet = fleet
        self._drain = drain
        self._is_live = is_live
        self._collector = HubCollector(hub, sessions)

    async def status(self) -> ReplicaStatus:
        """See ``Managed``."""
        return replica_status(self._hub, self._sessions, self._declaration, self._fleet)

    async def metrics(self) -> bytes:
        """See ``Managed``."""
        return exposition(self._collector)

    async def death(self) -> str:
        """See ``Managed``."""
        return "" if self._is_live() else "the engine has stalled"

    async def update_weights(self, wanted: WeightsUpdate) -> WeightsUpdated:
        """See ``Managed``."""
        if self._weights is None or not self._hub.is_open:
            raise Busy("the engine is loading")
        updated = await self._weights.update(wanted)
        self._declaration.rebase(updated.base)
        return updated

    def drain(self, reason: str) -> None:
        """See ``Managed``."""
        self._drain(reason)


def replica_status(
    hub: Hub, sessions: Sessions, declaration: Declaration, fleet: str
) -> ReplicaStatus:
    """What the replica is and does now; also while its engine still loads."""
    reason = _reason(hub, declaration)
    common = ReplicaStatus(
        ready=not reason,
        incarnation=sessions.incarnation,
        reason=reason,
        draining=hub.is_draining,
        replica=sessions.replica,
        fleet=fleet,
        pid=os.getpid(),
        adapters_hash=declaration.declared.adapters_hash,
        adapters_error=declaration.error,
        declared=declaration.declared.states(),
        operations=tuple(sorted({*hub.operations, *hub.change.operations})),
    )
    if not hub.is_open:
        return common
    return msgspec.structs.replace(
        common,
        card=hub.card,
        load=hub.load(),
        held=tuple(sorted(hub.adapters.held())) if hub.adapters is not None else (),
        sessions=len(sessions),
        kept_streams=hub.table.kept,
    )


def _reason(hub: Hub, declaration: Declaration) -> str:
    if hub.is_draining:
        return "draining"
    return declaration.reason() if hub.is_open else "the engine is loading"
