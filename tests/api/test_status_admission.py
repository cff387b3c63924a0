"""Pods that quotas, Pod Security and policies refuse: the status says who does, and what to do."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from tests.apiserver_client import RefusedError
from tests.apiserver_pods import make_pod_ready
from tests.live_fleet import LiveFleet
from tests.shown_status import check_told, scheduled_pod, told

pytestmark = pytest.mark.usefixtures("operator")


def enforce_restricted(fleet: LiveFleet) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    fleet.client.patch(f"/api/v1/namespaces/{fleet.namespace}", {"metadata": {"labels": labels}})


def make_quota(fleet: LiveFleet, pods: int) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/resourcequotas"
    hard = {"pods": str(pods)}
    fleet.client.apply(
        f"{path}/small",
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small"},
            "spec": {"hard": hard},
        },
    )
    fleet.wait(
        lambda: fleet.client.get(f"{path}/small").get("status", {}).get("hard") == hard,
        "the quota holds",
    )


def test_a_quota_is_told_and_obeyed(fleet: LiveFleet) -> None:
    make_quota(fleet, 1)
    fleet.create({"replicas": 3})
    check_told(
        fleet,
        "PodRefused",
        "0 of 3 replicas ready; the cluster refuses pods: exceeded quota: small, requested: pods=1,"
        " used: pods=1, limited: pods=1; raise the ResourceQuota or ask for less",
    )
    make_pod_ready(fleet.client, scheduled_pod(fleet))
    fleet.wait(
        lambda: told(fleet)[1].startswith("1 of 3 replicas ready; the cluster refuses pods"),
        "what runs counts",
    )
    assert fleet.condition("Stalled")["status"] == "True"
    make_quota(fleet, 3)
    fleet.settle()
    assert fleet.condition("Stalled")["status"] == "False"


def test_our_pods_are_taken_where_restricted_pod_security_is_enforced(fleet: LiveFleet) -> None:
    enforce_restricted(fleet)
    fleet.create({"lora": {}, "model": {"uri": "hf://owner/model"}, "engine": {"sim": {}}})
    fleet.settle()


def limit_range(fleet: LiveFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/limitranges"
    limit = {"type": "Container", "max": {"memory": "1Gi"}}
    fleet.client.post(path, {"metadata": {"name": "small"}, "spec": {"limits": [limit]}})


def forbid_moving_tags(fleet: LiveFleet) -> None:
    """A policy of the cluster's own, as a webhook would be, for this namespace."""
    name = f"pinned.{fleet.namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    spec = {
        "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
        "validations": [
            {
                "expression": "object.spec.containers.all(c, c.image.contains('@sha256:'))",
                "message": "images are named by digest here",
            }
        ],
    }
    label = {"kubernetes.io/metadata.name": fleet.namespace}
    bound = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": label}},
    }
    for kind, body in (("policies", spec), ("policybindings", bound)):
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmission{kind}"
        fleet.client.post(path, {"metadata": {"name": name}, "spec": body})
    pod = {"metadata": {"name": "any"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}

    def is_in_force() -> bool:
        path = f"/api/v1/namespaces/{fleet.namespace}/pods"
        try:
            fleet.client.post(path, pod, dryRun="All")
        except RefusedError as refused:
            return "images are named by digest here" in refused.message
        return False

    fleet.wait(is_in_force, "the policy is in force")


def nothing(fleet: LiveFleet) -> None:
    """The namespace is as it always is."""


NODE_VOLUME: Final = {"name": "runs", "mountPath": "/runs", "hostPath": {"path": "/runs"}}

REFUSED: Final[dict[str, tuple[Callable[[LiveFleet], None], dict[str, Any], str]]] = {
    "a directory of the node, under restricted Pod Security": (
        enforce_restricted,
        {"lora": {"volumes": [NODE_VOLUME]}},
        r'violates PodSecurity "restricted:latest": restricted volume types \(volume "lora-runs"'
        r" uses restricted volume type \"hostPath\"\); see spec.podSecurityContext and"
        " spec.podTemplateOverrides",
    ),
    "more memory than a LimitRange allows": (
        limit_range,
        {"resources": {"limits": {"memory": "2Gi"}}},
        "maximum memory usage per Container is 1Gi, but limit is 2Gi",
    ),
    "an image that a policy does not allow": (
        forbid_moving_tags,
        {"image": "ghcr.io/a/b:latest"},
        r"ValidatingAdmissionPolicy 'pinned\.test-\d+' with binding 'pinned\.test-\d+' denied"
        " request: images are named by digest here",
    ),
    "a PriorityClass that nobody has": (
        nothing,
        {"priorityClassName": "none"},
        "no PriorityClass with name none was found; correct spec.priorityClassName",
    ),
    "a RuntimeClass that nobody has": (
        nothing,
        {"runtimeClassName": "none"},
        '.*RuntimeClass "none" not found; correct spec.runtimeClassName',
    ),
    "a ServiceAccount that nobody has": (
        nothing,
        {"serviceAccountName": "none"},
        'error looking up service account .*: serviceaccount "none" not found; correct'
        " spec.serviceAccountName",
    ),
}


@pytest.mark.parametrize(("prepare", "spec", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_pods_that_the_cluster_refuses_are_told(
    fleet: LiveFleet, prepare: Callable[[LiveFleet], None], spec: dict[str, Any], message: str
) -> None:
    prepare(fleet)
    fleet.create(spec)
    check_told(fleet, "PodRefused", f"0 of 1 replicas ready; the cluster refuses pods: {message}")
    assert fleet.condition("Stalled")["status"] == "True"
