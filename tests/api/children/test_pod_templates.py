"""Overrides of the pod template, and nulls in a spec."""

from typing import Final

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.every_child import EVERY_CHILD, containers, template
from tests.live_fleet import SIM, LiveFleet
from tests.spec_cases import changed


def test_overrides_add_and_take_away(fleet: LiveFleet) -> None:
    sidecar = {"name": "proxy", "image": "proxy:1"}
    tuned = {"name": "server", "livenessProbe": None, "env": [{"name": "A", "value": "1"}]}
    overrides = {"spec": {"containers": [sidecar, tuned], "hostNetwork": True}}
    spec = changed(dict(SIM), EVERY_CHILD | {"podTemplateOverrides": overrides})
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    fleet.kubectl(*apply, spec=spec)
    fleet.settle()
    assert containers(fleet).keys() == {"server", "proxy"}
    server = containers(fleet)["server"]
    assert "livenessProbe" not in server
    assert "readinessProbe" in server
    assert {"name": "A", "value": "1"} in server["env"]
    assert template(fleet)["hostNetwork"] is True
    # What an override has added goes with it, and what it has taken away comes back.
    fleet.kubectl(*apply, spec=changed(dict(SIM), EVERY_CHILD))
    fleet.settle()
    assert containers(fleet).keys() == {"server"}
    server = containers(fleet)["server"]
    assert "livenessProbe" in server
    assert "A" not in {each["name"] for each in server["env"]}
    assert "hostNetwork" not in template(fleet)


INVALID: Final = {
    "a name that no container may have": (
        {"spec": {"containers": [{"name": "No_Name", "image": "a"}]}},
        "Deployment fleet: ",
    ),
    "a field that no pod has": (
        {"spec": {"hostNetwrok": True}},
        "field not declared in schema",
    ),
    "a mount of a volume that is not there": (
        {
            "spec": {
                "containers": [
                    {"name": "server", "volumeMounts": [{"name": "none", "mountPath": "/none"}]}
                ]
            }
        },
        'volumeMounts[5].name: Not found: "none"',
    ),
}


@pytest.mark.parametrize(("overrides", "told"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_override_stops_no_pod(fleet: LiveFleet, overrides: Object, told: str) -> None:
    pods = {each["metadata"]["uid"] for each in fleet.pods()}
    fleet.change({"podTemplateOverrides": overrides, "disruptionBudget": {"maxUnavailable": 2}})
    said = fleet.wait_for("Accepted", "False", "InvalidPodTemplate")
    assert told in said, said
    ready = fleet.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Serving")
    assert fleet.condition("UpToDate")["reason"] == "InvalidPodTemplate"
    # The other children follow, the pods stay.
    budget = fleet.child("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 2
    assert {each["metadata"]["uid"] for each in fleet.pods()} == pods
    fleet.change({"podTemplateOverrides": None})
    fleet.wait_for("Accepted")
    fleet.settle()
    assert {each["metadata"]["uid"] for each in fleet.pods()} == pods


def test_nulls_take_away_defaults_of_the_security_context(
    api_server: ApiServer, namespace: str
) -> None:
    fleet = LiveFleet(api_server, namespace)
    nulls = {"podSecurityContext": {"runAsUser": None, "fsGroup": None}}
    spec = changed(dict(SIM), nulls)
    fleet.kubectl("apply", "--server-side", "-f", "-", spec=spec)
    fleet.settle()
    context = template(fleet)["securityContext"]
    assert context.keys().isdisjoint({"runAsUser", "fsGroup"})
    assert context["runAsNonRoot"] is True
    fleet.kubectl("apply", "--server-side", "-f", "-", spec=SIM)
    fleet.settle()
    assert template(fleet)["securityContext"]["runAsUser"] == 2000
