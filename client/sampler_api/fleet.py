"""What operator, servers and clients tell each other about a fleet outside of sessions.

Documents: :class:`AdaptersConfig` (operator to pods, a file in a mounted ConfigMap),
:class:`ReplicaStatus` (a pod's answer to ``GET /status``), :class:`LocalFleet` (local runtime to
clients of the same machine, a state file), :class:`WeightsUpdate` and its answer
:class:`WeightsUpdated` (whoever manages a replica to its management port). All are JSON.
"""

import hashlib
from typing import Final, Literal

import msgspec

from .frames import Load, ModelCard
from .revisions import InFlight

__all__ = [
    "ADAPTERS_FILE",
    "AdapterState",
    "AdaptersConfig",
    "DeclaredAdapter",
    "LocalFleet",
    "LocalReplica",
    "ReplicaStatus",
    "RequiredAdapter",
    "WeightsUpdate",
    "WeightsUpdated",
]

ADAPTERS_FILE: Final = "adapters.json"


class DeclaredAdapter(msgspec.Struct, frozen=True, omit_defaults=True):
    """An adapter that every replica holds: a directory of a LoRA volume, and its digest if
    known."""

    name: str
    path: str
    digest: str | None = None


class RequiredAdapter(msgspec.Struct, frozen=True, order=True):
    """A declared revision that some ready replica holds already."""

    name: str
    digest: str


class AdaptersConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a replica must hold, and what it must be.

    A replica loads everything in ``declared``. It becomes ready for the first time when it holds
    all of ``required``; with ``None`` (a new fleet) when each declared adapter was tried once.
    ``bases``: base digest by pod-template hash; a replica of that template with another base stays
    out of the fleet.
    """

    declared: tuple[DeclaredAdapter, ...] = ()
    required: tuple[RequiredAdapter, ...] | None = None
    bases: dict[str, str] = {}

    @property
    def declared_hash(self) -> str:
        """Identity of what is declared; empty when nothing is."""
        if not self.declared:
            return ""
        return hashlib.sha256(msgspec.json.encode(self.declared)).hexdigest()[:32]


class AdapterState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One declared adapter at one replica; ``message`` says why it failed."""

    name: str
    state: Literal["loading", "held", "failed"]
    digest: str | None = None
    message: str = ""


class ReplicaStatus(msgspec.Struct, frozen=True):
    """A replica's own account. ``adapters_hash`` is the ``declared_hash`` of the last adapters
    file of which every adapter has been tried, ``adapters_error`` why the file as it is now could
    not be taken in; ``declared`` its adapters, ``held`` every digest that can be served."""

    ready: bool
    incarnation: str
    reason: str = ""
    draining: bool = False
    replica: str = ""
    fleet: str = ""
    pid: int = 0
    card: ModelCard | None = None
    load: Load | None = None
    adapters_hash: str = ""
    adapters_error: str = ""
    declared: tuple[AdapterState, ...] = ()
    held: tuple[str, ...] = ()
    sessions: int = 0
    kept_streams: int = 0
    operations: tuple[str, ...] = ()

    @property
    def base(self) -> str | None:
        """Base digest; ``None`` while the model loads."""
        return self.card.base if self.card is not None else None


class LocalReplica(msgspec.Struct, frozen=True, order=True):
    """A process that serves: its data ports (one per engine) as URLs."""

    name: str
    urls: tuple[str, ...]


class LocalFleet(msgspec.Struct, frozen=True):
    """The state file of a fleet on this machine: the replicas that are ready, and the process that
    keeps them."""

    name: str
    uid: str
    pid: int
    replicas: tuple[LocalReplica, ...] = ()


class WeightsUpdate(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Replace the base's weights by those of a directory below the replica's adapter roots.

    ``finish_seconds`` bounds the wait for running sequences with ``in_flight="finish"``; ``None``
    waits as long as they take.
    """

    directory: str
    in_flight: InFlight = "finish"
    finish_seconds: float | None = None


class WeightsUpdated(msgspec.Struct, frozen=True):
    """The base that is served now and the one before: equal when the weights were there already."""

    base: str
    previous: str
