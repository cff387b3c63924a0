"""The rows of the fault matrix: what happens, how it is done, what must hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tests.faults.goals import Goals
from tests.faults.load import CALLS
from tests.faults.scenarios import (
    adapters,
    control_plane,
    devices,
    jobs,
    network,
    nodes,
    replicas,
    rollouts,
    upgrades,
)
from tests.faults.stage import Stage

__all__ = ["CONTROL", "ROWS", "Row"]

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Row:
    """``fault`` does it, waits until all is as before, and says how it is known.

    ``name`` names the row's fleet. ``spec`` is merged over the usual one; as a function it gets the
    folder of the ledgers. ``target``: how clients
    find replicas, k8s, dns or pods. ``settings`` are words of ``tests.faults.load``. ``with_http``:
    streams of plain HTTP run beside. ``is_planned``: replicas are told to leave, and hand over.
    ``in_tier``: it is one of those that the tier e2e runs.
    """

    name: str
    scenario: str
    fault: Callable[[Stage], str]
    goals: Goals
    spec: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] = field(
        default_factory=lambda: _NONE
    )
    target: str = "k8s"
    settings: tuple[str, ...] = ()
    calls: int = CALLS
    with_http: bool = False
    in_tier: bool = False

    def changes(self, ledgers: Path) -> Mapping[str, Any]:
        """What is merged over the usual spec."""
        return self.spec(ledgers) if callable(self.spec) else self.spec

    @property
    def is_planned(self) -> bool:
        """Replicas are told to leave."""
        return self.goals.handed_over_s is not None


_STALL_SECONDS: Final = 2
_SILENCE_SECONDS: Final = 8
_LEASE_SECONDS: Final = 2
_PLANNED: Final = Goals(stall_s=3, handed_over_s=3, delivered_redone=0, redone=32, continued=1)
_DEATH: Final = Goals(stall_s=_STALL_SECONDS, redone=32, continued=1)
_SILENT: Final = Goals(stall_s=_SILENCE_SECONDS, continued=1)
_UNDISTURBED: Final = Goals(stall_s=_STALL_SECONDS, redone=0, delivered_redone=0)
_LIMITED: Final = {"resources": {"limits": {"memory": "256Mi"}}, "shmSize": "250Mi"}
_ONE_DEVICE: Final = {
    "replicas": 4,
    "gpu": {"count": 1, "resourceName": devices.RESOURCE},
}
_SPREAD: Final = {
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
        }
    ],
    "tolerations": [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 2,
        }
        for trouble in ("not-ready", "unreachable")
    ],
}


def nothing(stage: Stage) -> str:
    """No fault: what the machine does by itself."""
    stage.strike()
    stage.for_seconds(10)
    stage.recovered()
    return "nothing happened"


CONTROL: Final = Row(
    "control", "nothing (the control)", nothing, _UNDISTURBED, with_http=True, in_tier=True
)

ROWS: Final = (
    CONTROL,
    Row("killed", "SIGKILL to a pod", replicas.killed, _DEATH, in_tier=True),
    Row(
        "deleted",
        "a pod is deleted",
        replicas.deleted,
        _PLANNED,
        with_http=True,
        in_tier=True,
    ),
    Row(
        "engine-killed",
        "SIGKILL to one of a pod's two engine processes",
        replicas.engine_killed,
        _DEATH,
        spec={"enginesPerGPU": 2},
    ),
    Row("wedged", "SIGSTOP to a pod", replicas.wedged, _SILENT),
    Row("memory", "a container is out of memory", replicas.out_of_memory, _DEATH, spec=_LIMITED),
    Row("evicted", "a pod is evicted under a budget", replicas.evicted, _PLANNED, in_tier=True),
    Row("drained", "a node is drained", nodes.drained, _PLANNED, spec=_SPREAD, with_http=True),
    Row("node-lost", "a node is lost", nodes.lost, _SILENT, spec=_SPREAD, in_tier=True),
    Row(
        "argument",
        "rolling update of an engine argument",
        rollouts.argument_changed,
        _PLANNED,
        with_http=True,
        in_tier=True,
    ),
    Row("image", "rolling update of the image", rollouts.image_changed, _PLANNED),
    Row(
        "scaled",
        "kubectl scale from 1 to 4 and to 1",
        rollouts.scaled,
        _PLANNED,
        spec={"replicas": 1},
        in_tier=True,
    ),
    Row(
        "operator",
        "the operator is killed during a rollout",
        rollouts.operator_killed,
        _PLANNED,
    ),
    Row("api-down", "no API server for 30 s", control_plane.api_down, _UNDISTURBED),
    Row("etcd", "etcd is killed and started again", control_plane.etcd_restarted, _UNDISTURBED),
    Row("cut", "network cut to one pod for 10 s", network.cut_for_10_s, _SILENT, in_tier=True),
    Row("cut-off", "network cut to one pod for good", network.cut_for_good, _SILENT),
    Row("slow", "a replica is ten times as slow", network.slow, _UNDISTURBED),
    Row(
        "all-gone",
        "no replica at all for 30 s",
        network.all_gone,
        Goals(delivered_redone=0, continued=1),
    ),
    Row(
        "poisoned",
        "a replica is ready and answers errors",
        network.poisoned,
        Goals(stall_s=_STALL_SECONDS, continued=1),
        in_tier=True,
    ),
    Row(
        "model",
        "rolling update of the model",
        rollouts.model_changed,
        Goals(delivered_redone=0, redone=32, continued=1, may_be_gone=True),
        settings=("--set", "gone_timeout=5"),
    ),
    Row(
        "model-restart",
        "rolling update of the model, what is cut begins anew",
        rollouts.model_changed,
        Goals(delivered_redone=0, redone=32, continued=1),
        settings=("--set", "gone_timeout=5", "--set", "on_revision_gone=restart"),
    ),
    Row(
        "client-killed",
        "the client is killed and another one starts",
        jobs.killed,
        Goals(recovery_s=_LEASE_SECONDS + 5),
        spec={"engine": {"orphanSeconds": _LEASE_SECONDS}},
        in_tier=True,
    ),
    Row(
        "client-bye",
        "the client closes its sampler and another one starts",
        jobs.said_bye,
        Goals(recovery_s=1),
        settings=("--bye",),
    ),
    Row("dns-down", "no DNS for 30 s", control_plane.dns_down, _UNDISTURBED, target="dns"),
    Row(
        "gpus-taken",
        "rolling update with all devices taken",
        devices.all_taken,
        _PLANNED,
        spec=_ONE_DEVICE,
    ),
    Row(
        "gpus-2",
        "two devices a replica instead of one, with all taken",
        devices.more_per_pod,
        _PLANNED,
        spec=_ONE_DEVICE,
    ),
    Row(
        "gpus-too-many",
        "more devices a replica than a node has",
        devices.too_many_per_pod,
        _PLANNED,
        spec=_ONE_DEVICE,
    ),
    Row(
        "adapters",
        "the volume of adapters is read-only, the store of copies full",
        adapters.full,
        _UNDISTURBED,
        spec=adapters.small_store,
    ),
    Row("upgrade", "helm upgrade of the operator", upgrades.operator_upgraded, _UNDISTURBED),
    Row("crd", "upgrade of the CRD", upgrades.crd_upgraded, _UNDISTURBED),
)
