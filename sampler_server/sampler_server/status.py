"""A replica's own account, for ``GET /status`` and the readiness probe."""

import os

import msgspec

from sampler_api.fleet import ReplicaStatus

from .declaration import Declaration
from .hub import Hub
from .websocket import Sessions

__all__ = ["replica_status"]


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
        operations=tuple(sorted(hub.operations)),
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
