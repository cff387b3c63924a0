"""States of a fleet, and what its status says in each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.kube_objects import (
    deployment,
    ended,
    pod,
    running,
    termination,
    waiting,
)

from sampler_operator.errors import Denied, Missing, Refused, Unavailable
from sampler_operator.observed import ChildView, PodView

__all__ = ["CASES", "OLD", "READY", "Case"]

READY = pod("fleet-a-1", is_ready=True)
READY_2 = pod("fleet-a-2", is_ready=True)
OLD = pod("fleet-b-1", template="b", is_ready=True, age=9000)
OLD_2 = pod("fleet-b-2", template="b", is_ready=True, age=9000)
LOADING = pod("fleet-a-1", server=running())
NO_IMAGE = pod("fleet-a-1", server=waiting("ErrImageNeverPull", 'Container image "x" is not'))
OLD_NO_IMAGE = pod(
    "fleet-b-3", template="b", age=300, server=waiting("ErrImageNeverPull", 'image "x"')
)
CRASHED = pod("fleet-a-2", server=ended(1, message="no such dtype"))
LOOPING = pod(
    "fleet-a-2", server=waiting("CrashLoopBackOff", restarts=4, last=termination(1, "Error"))
)
DONE = ("True", "NewReplicaSetAvailable")
PAUSED = ("Unknown", "DeploymentPaused")
LATE = ("False", "ProgressDeadlineExceeded")
SURGE = {"rollout": {"maxSurge": 1, "maxUnavailable": 0}}
QUOTA = 'pods "fleet-1" is forbidden: exceeded quota: gpus'
BAD_TEMPLATE = Refused(
    'Deployment fleet: Deployment.apps "fleet" is invalid:'
    " spec.template.spec.containers[0].image: Required value",
    "422",
)
RBAC = Denied(
    'networkpolicies.networking.k8s.io "fleet" is forbidden: User "system:serviceaccount:ops:op"'
    ' cannot patch resource "networkpolicies" in API group "networking.k8s.io" in the namespace'
    ' "rl"'
)


@dataclass(frozen=True)
class Case:
    """A state of a fleet, and what conditions say of it: ``+Reason`` or ``-Reason``."""

    sentence: str
    spec: Mapping[str, Any]
    child: ChildView | None
    pods: tuple[PodView, ...]
    says: Mapping[str, str]
    messages: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


TWO = {"replicas": 2}
CASES = [
    Case(
        "a fleet that is not there yet is on its way",
        TWO,
        None,
        (),
        {
            "Accepted": "+Accepted",
            "Ready": "-Pending",
            "UpToDate": "-RollingOut",
            "Progressing": "+RollingOut",
            "Reconciling": "+RollingOut",
            "Stalled": "-NoFault",
        },
        {"Ready": "0 of 2 replicas ready; the Deployment does not exist yet"},
    ),
    Case(
        "a fleet that serves as a whole is up to date",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {
            "Accepted": "+Accepted",
            "Ready": "+Serving",
            "UpToDate": "+UpToDate",
            "Progressing": "-Complete",
            "AdaptersReady": "+NoneDeclared",
            "Reconciling": "-Complete",
            "Stalled": "-NoFault",
        },
        {"UpToDate": "2 of 2 replicas are of this generation and ready"},
    ),
    Case(
        "a new fleet waits for its engines",
        TWO,
        deployment(2, ready=0),
        (LOADING, pod("fleet-a-2", server=running())),
        {"Ready": "-Starting", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
        {
            "Ready": "0 of 2 replicas ready; replica fleet-a-1: its engine is starting (1 more"
            " alike)"
        },
    ),
    Case(
        "a fleet serves while a rollout without surge takes one replica",
        TWO,
        deployment(2, 1, 1),
        (LOADING, OLD),
        {"Ready": "+Serving", "UpToDate": "-RollingOut", "Progressing": "+RollingOut"},
        {
            "Progressing": "1 of 2 replicas are of this generation, 1 of former ones are left, 1"
            " ready"
        },
    ),
    Case(
        "a fleet is never unready while a surge still serves",
        {**TWO, **SURGE},
        deployment(3, 1, 2),
        (LOADING, OLD, OLD_2),
        {"Ready": "+Serving", "UpToDate": "-RollingOut", "Reconciling": "+RollingOut"},
    ),
    Case(
        "a surge that is not gone yet is not up to date",
        {**TWO, **SURGE},
        deployment(3, 2, 3),
        (READY, READY_2, OLD),
        {"Ready": "+Serving", "UpToDate": "-RollingOut"},
        {"Ready": "3 replicas ready, 2 wanted"},
    ),
    Case(
        "a broken image leaves the old replicas of a surge serving",
        {**TWO, **SURGE},
        deployment(3, 1, 2),
        (NO_IMAGE, OLD, OLD_2),
        {
            "Ready": "+Serving",
            "UpToDate": "-ImageNeverPull",
            "Progressing": "+RollingOut",
            "Reconciling": "-ImageNeverPull",
            "Stalled": "+ImageNeverPull",
        },
    ),
    Case(
        "one replica that is replaced in place does not serve meanwhile",
        {"replicas": 1},
        deployment(1, 1, 0),
        (LOADING,),
        {"Ready": "-Starting", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "one replica serves until its surge does",
        {"replicas": 1, **SURGE},
        deployment(2, 1, 1),
        (LOADING, OLD),
        {"Ready": "+Serving", "UpToDate": "-RollingOut"},
    ),
    Case(
        "a rollout that recreates waits for those that leave",
        {**TWO, "rollout": {"strategy": "Recreate"}},
        deployment(0, 0, 0),
        (pod("fleet-b-1", template="b", is_ready=True, is_leaving=True),),
        {"Ready": "-Pending", "Progressing": "+RollingOut"},
        {
            "Ready": "0 of 2 replicas ready; waits for 1 of its pods that are leaving",
            "UpToDate": "0 of 2 replicas are of this generation, 0 ready; "
            "waits for 1 of its pods that are leaving",
        },
    ),
    Case(
        "counts of a former generation prove nothing",
        TWO,
        deployment(2, ready=2, generation=5, seen=4, progressing=DONE),
        (READY, READY_2),
        {"Ready": "+Serving", "UpToDate": "-RollingOut", "Progressing": "+RollingOut"},
        {"UpToDate": "the last change has not been taken up yet"},
    ),
    Case(
        "a fault of a former generation stalls nobody",
        TWO,
        deployment(2, 0, 1, generation=5, seen=4),
        (OLD_NO_IMAGE, OLD),
        {"UpToDate": "-RollingOut", "Reconciling": "+RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "a fault of an old replica stalls no rollout",
        TWO,
        deployment(2, 1, 0),
        (LOADING, OLD_NO_IMAGE),
        {"Ready": "-ImageNeverPull", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "replicas that are ready but not yet available are not up to date",
        {**TWO, "minReadySeconds": 60},
        deployment(2, 2, 2, 1),
        (READY, READY_2),
        {"Ready": "+Serving", "UpToDate": "-RollingOut"},
        {"UpToDate": "2 of 2 replicas are of this generation, 2 ready, 1 available"},
    ),
    Case(
        "more replicas are a matter of scaling",
        {"replicas": 4},
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Ready": "-Pending", "Progressing": "+Scaling", "UpToDate": "-Scaling"},
    ),
    Case(
        "a replica that starts again is waited for",
        {"replicas": 2},
        deployment(2, ready=1, progressing=DONE),
        (LOADING, READY_2),
        {"Ready": "+Serving", "Progressing": "+WaitingForReplicas"},
    ),
    Case(
        "a fleet that is scaled to zero is up to date and not ready",
        {"replicas": 0},
        deployment(0, progressing=DONE),
        (),
        {
            "Ready": "-ScaledToZero",
            "UpToDate": "+UpToDate",
            "Progressing": "-Complete",
            "Stalled": "-NoFault",
        },
    ),
    Case(
        "a fleet on its way to zero is scaling",
        {"replicas": 0},
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Ready": "-ScaledToZero", "UpToDate": "-Scaling", "Progressing": "+Scaling"},
    ),
    Case(
        "a paused change waits and the fleet serves",
        {**TWO, "paused": True},
        deployment(2, 0, 2, progressing=PAUSED),
        (OLD, OLD_2),
        {
            "Ready": "+Serving",
            "UpToDate": "-Paused",
            "Progressing": "-Paused",
            "Reconciling": "+Paused",
            "Stalled": "-NoFault",
        },
    ),
    Case(
        "a paused fleet without changes is complete",
        {**TWO, "paused": True},
        deployment(2, ready=2, progressing=PAUSED),
        (READY, READY_2),
        {"UpToDate": "+UpToDate", "Progressing": "-Complete"},
    ),
    Case(
        "a paused fleet scales all the same",
        {"replicas": 3, "paused": True},
        deployment(2, ready=2, progressing=PAUSED),
        (READY, READY_2),
        {"Ready": "+Serving", "UpToDate": "-Scaling", "Progressing": "+Scaling"},
    ),
    Case(
        "a fleet that is made in pause says why nothing starts",
        {**TWO, "paused": True},
        deployment(0, progressing=PAUSED),
        (),
        {"Ready": "-Paused", "Progressing": "-Paused"},
    ),
    Case(
        "a rollout past its deadline is stalled",
        TWO,
        deployment(2, 1, 1, progressing=LATE),
        (LOADING, OLD),
        {
            "Ready": "+Serving",
            "UpToDate": "-ProgressDeadlineExceeded",
            "Progressing": "-ProgressDeadlineExceeded",
            "Reconciling": "-ProgressDeadlineExceeded",
            "Stalled": "+ProgressDeadlineExceeded",
        },
        {"Stalled": "; replica fleet-a-1: its engine is starting"},
    ),
    Case(
        "a deadline is forgotten once the fleet is complete",
        TWO,
        deployment(2, ready=2, progressing=LATE),
        (READY, READY_2),
        {"UpToDate": "+UpToDate", "Progressing": "-Complete", "Stalled": "-NoFault"},
    ),
    Case(
        "a refused pod is told before anything else",
        TWO,
        deployment(1, ready=0, failure=QUOTA),
        (LOADING,),
        {"Ready": "-PodRefused", "UpToDate": "-PodRefused", "Stalled": "+PodRefused"},
        {"Ready": "0 of 2 replicas ready; the cluster refuses pods: exceeded quota: gpus"},
    ),
    Case(
        "of two faults the one that a person must mend is told",
        TWO,
        deployment(2, ready=0),
        (NO_IMAGE, CRASHED),
        {"Ready": "-ImageNeverPull", "Stalled": "+ImageNeverPull"},
        {"Ready": "0 of 2 replicas ready; replica fleet-a-1: image x is not on the node"},
    ),
    Case(
        "what a person must mend is told before what may heal earlier in the life of a pod",
        TWO,
        deployment(2, ready=0),
        (pod("fleet-a-1", server=waiting("ImagePullBackOff", "i/o timeout")), LOOPING),
        {"Ready": "-EngineStartFailed", "Stalled": "+EngineStartFailed"},
    ),
    Case(
        "of two faults alike the one earlier in the life of a pod is told",
        TWO,
        deployment(2, ready=0),
        (
            pod("fleet-a-1", server=ended(1, message="no such dtype")),
            pod("fleet-a-2", server=waiting("ImagePullBackOff", "i/o timeout")),
        ),
        {"Ready": "-ImagePull", "Stalled": "-NoFault"},
    ),
    Case(
        "an old replica that was made anew during a rollout is still an old one",
        {"replicas": 3},
        deployment(3, 1, 1),
        (
            pod("fleet-a-1", server=running(), age=60),
            OLD,
            pod("fleet-b-3", template="b", age=9, server=waiting("ErrImageNeverPull", 'image "x"')),
        ),
        {"UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "a refusal of a former generation stalls nobody",
        TWO,
        deployment(1, ready=0, generation=5, seen=4, failure=QUOTA),
        (LOADING,),
        {"Ready": "-PodRefused", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "a refusal that has not been taken back stalls no complete fleet",
        TWO,
        deployment(2, ready=2, progressing=DONE, failure=QUOTA),
        (READY, READY_2),
        {"UpToDate": "+UpToDate", "Stalled": "-NoFault"},
    ),
    Case(
        "of a fault and a start the fault is told",
        {"replicas": 3},
        deployment(3, ready=0),
        (LOADING, CRASHED, pod("fleet-a-3", server=waiting("ContainerCreating"))),
        {"Ready": "-EngineStartFailed", "UpToDate": "-EngineStartFailed", "Stalled": "-NoFault"},
        {"Ready": "0 of 3 replicas ready; replica fleet-a-2: no such dtype"},
    ),
    Case(
        "an eviction of long ago does not hide a start",
        {"replicas": 1},
        deployment(1, ready=0),
        (
            LOADING,
            pod("fleet-a-0", phase="Failed", reason="Evicted", message="low on memory", age=9000),
        ),
        {"Ready": "-Starting"},
    ),
    Case(
        "a refused pod template is not accepted",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {
            "Accepted": "-InvalidPodTemplate",
            "Ready": "+Serving",
            "UpToDate": "-InvalidPodTemplate",
            "Reconciling": "-InvalidPodTemplate",
            "Stalled": "+InvalidPodTemplate",
        },
        {"Accepted": "containers[0].image: Required value"},
        {"failures": (BAD_TEMPLATE,)},
    ),
    Case(
        "a right that the operator lacks is named",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Accepted": "-Forbidden", "Ready": "+Serving", "Stalled": "+Forbidden"},
        {"Accepted": 'cannot patch resource "networkpolicies"'},
        {"failures": (RBAC,)},
    ),
    Case(
        "a kind that the cluster lacks is named",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Accepted": "-MissingKind", "UpToDate": "-MissingKind"},
        {"Accepted": "the cluster has no PodMonitor"},
        {"failures": (Missing("PodMonitor fleet: the cluster has no PodMonitor: not found"),)},
    ),
    Case(
        "an object of somebody else under the fleet's name is left alone",
        TWO,
        None,
        (),
        {"Accepted": "-NameTaken", "Ready": "-NameTaken", "Stalled": "+NameTaken"},
        {"Ready": "0 of 2 replicas ready; Deployment fleet exists already"},
        {"failures": (Refused("Deployment fleet exists already", "metadata.name"),)},
    ),
    Case(
        "another child that is refused is no pod template",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Accepted": "-ChildRefused"},
        {"Accepted": "spec.ingress[0]"},
        {"failures": (Refused("NetworkPolicy fleet: spec.ingress[0]: Invalid value"),)},
    ),
    Case(
        "a quota on Deployments refuses no pod template",
        TWO,
        None,
        (),
        {"Accepted": "-ChildRefused", "Ready": "-ChildRefused", "Stalled": "+ChildRefused"},
        {"Accepted": "exceeded quota"},
        {"failures": (Refused("Deployment fleet: exceeded quota: deployments", "403"),)},
    ),
    Case(
        "a webhook that refuses the Deployment is no judge of its pod template",
        TWO,
        None,
        (),
        {"Accepted": "-ChildRefused"},
        {"Accepted": "spec.template needs an owner"},
        {"failures": (Refused("Deployment fleet: spec.template needs an owner", "403"),)},
    ),
    Case(
        "a pod template that is not even read is invalid",
        TWO,
        None,
        (),
        {"Accepted": "-InvalidPodTemplate"},
        {},
        {"failures": (Refused('Deployment fleet: unknown field "spec.template.x"', "400"),)},
    ),
    Case(
        "of several refusals the pod template's is told",
        TWO,
        None,
        (),
        {"Accepted": "-InvalidPodTemplate"},
        {"Accepted": "(and 1 more)"},
        {"failures": (RBAC, BAD_TEMPLATE)},
    ),
    Case(
        "an API server that does not answer refuses nothing and leaves the fleet behind its spec",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {
            "Accepted": "+Accepted",
            "UpToDate": "-ClusterUnavailable",
            "Reconciling": "+ClusterUnavailable",
            "Stalled": "-NoFault",
        },
        {},
        {"failures": (Unavailable("PATCH /apis/apps/v1: connection refused"),)},
    ),
]
