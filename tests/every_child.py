"""A fleet that has a child of every kind that needs no other software, and what is read of it."""

from typing import Any, Final

from tests.apiserver_client import Object
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until

__all__ = ["EVERY_CHILD", "KINDS", "containers", "template", "wait_for_quiet"]

EVERY_CHILD: Final[dict[str, Any]] = {
    "replicas": 2,
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]},
}
KINDS: Final = (
    "ConfigMap",
    "Deployment",
    "Discovery",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
)
_QUIET_PASSES: Final = 3


def wait_for_quiet(operator: OperatorProcess) -> None:
    """Until nothing is written for some seconds, with a look at everything each second."""

    def is_quiet() -> bool:
        writes, passes = operator.writes(), _passes(operator)
        wait_until(lambda: _passes(operator) >= passes + _QUIET_PASSES, "the operator looks again")
        return operator.writes() == writes

    wait_until(is_quiet, "the operator has nothing more to write")


def _passes(operator: OperatorProcess) -> float:
    return operator.metrics()['sampler_operator_reconciles_total{result="ok"}']


def template(fleet: LiveFleet) -> Object:
    spec: Object = fleet.child("Deployment")["spec"]["template"]["spec"]
    return spec


def containers(fleet: LiveFleet) -> dict[str, Object]:
    return {each["name"]: each for each in template(fleet)["containers"]}
