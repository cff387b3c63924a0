"""What people do with kubectl, against a real API server and a real operator."""

import json
import re
import threading
from pathlib import Path

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.apiserver_pods import fail_pod, play_kubelet
from tests.live_fleet import SIM, LiveFleet
from tests.spec_cases import changed

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "status-table.txt"


pytestmark = pytest.mark.usefixtures("operator")


def test_apply_wait_scale_and_delete(fleet: LiveFleet) -> None:
    spec = changed(dict(SIM), {"replicas": 2})
    assert fleet.kubectl("apply", "-f", "-", spec=spec).endswith("/fleet created\n")
    done: list[str] = []
    wait = ("wait", "sd/fleet", "--for=condition=UpToDate", "--timeout=30s")
    waiting = threading.Thread(target=lambda: done.append(fleet.kubectl(*wait)))
    waiting.start()
    try:

        def is_told() -> bool:
            play_kubelet(fleet.client, fleet.namespace)
            return not waiting.is_alive()

        fleet.wait(is_told, "kubectl wait returns")
    finally:
        waiting.join()
    assert done == ["samplerdeployment.sampler.dev/fleet condition met\n"]
    is_ready = ("wait", "sd/fleet", "--for=condition=Ready", "--timeout=30s")
    assert fleet.kubectl(*is_ready) == "samplerdeployment.sampler.dev/fleet condition met\n"
    assert fleet.kubectl("apply", "-f", "-", spec=spec).endswith("/fleet unchanged\n")
    # Of a fleet that is scaled, what to wait for is not true for a moment longer.
    fleet.kubectl("scale", "sd/fleet", "--replicas=3")
    fleet.wait_for("UpToDate", "False")
    fleet.settle()
    assert len(fleet.pods()) == 3
    fleet.kubectl("scale", "sd/fleet", "--replicas=0")
    fleet.wait_for("Ready", "False", "ScaledToZero")
    fleet.settle()
    assert not fleet.pods()
    fleet.kubectl("delete", "sd/fleet", "--timeout=20s")
    assert not fleet.client.exists(fleet.path)


def cells(text: str) -> list[str]:
    """The one row of a table, without its heading."""
    _, row = text.splitlines()
    return re.split(r"\s{2,}", row.strip())


def test_get_shows_how_a_fleet_comes_up(fleet: LiveFleet) -> None:
    fleet.create({"replicas": 2})
    fleet.wait_for("Ready", "False")
    assert cells(fleet.kubectl("get", "sd"))[:3] == ["fleet", "False", "0/2"]
    fleet.settle()
    row = cells(fleet.kubectl("get", "sd", "-o", "wide"))
    assert row[:6] == ["fleet", "True", "2/2", "sim", "1", "sim://policy"]
    reason, message, image = row[-3:]
    assert (reason, message) == ("Serving", "2 of 2 replicas ready")
    assert re.fullmatch(r"\S+/sampler-sim:\S+", image)


def test_the_table_of_the_example_is_the_one_that_the_documents_show(
    api_server: ApiServer, namespace: str
) -> None:
    fleet = LiveFleet(api_server, namespace, "sim")
    fleet.kubectl("apply", "-f", str(ROOT / "manifests" / "examples" / "sim.yaml"))
    fleet.settle()
    shown = f"$ kubectl get sd\n{with_one_age(fleet.kubectl('get', 'sd'))}"
    known = TABLE.read_text() if TABLE.exists() else ""
    assert shown == known, f"write this to {TABLE.relative_to(ROOT)}, and to README.md:\n{shown}"


def with_one_age(table: str) -> str:
    """The last column is an age: always 25s."""
    lines = [re.sub(r"\S+$", "25s", line.rstrip()) for line in table.splitlines()[1:]]
    return "\n".join([table.splitlines()[0].rstrip(), *lines]) + "\n"


def test_explain_knows_the_status_too(fleet: LiveFleet) -> None:
    def explained() -> str:
        return fleet.kubectl("explain", "sd.status.conditions", check=False)

    fleet.wait(lambda: "observedGeneration\t<integer>" in explained(), "kubectl explains it")


def test_a_field_of_another_manager_is_a_conflict_until_it_is_forced(fleet: LiveFleet) -> None:
    spec = changed(dict(SIM), {"replicas": 1})
    apply = ("apply", "--server-side", "-f", "-", "--field-manager")
    fleet.kubectl(*apply, "one", spec=spec)
    fleet.settle()
    # The operator owns nothing of the spec, so that it is nobody's rival there.
    owners = {each["manager"]: each for each in fleet.get()["metadata"]["managedFields"]}
    assert owners.keys() == {"one", "sampler-operator"}
    assert owners["sampler-operator"]["subresource"] == "status"
    assert "f:spec" not in owners["sampler-operator"]["fieldsV1"]
    other = changed(spec, {"replicas": 2})
    told = fleet.kubectl(*apply, "two", spec=other, check=False)
    assert 'conflict with "one": .spec.replicas' in told
    assert fleet.get()["spec"]["replicas"] == 1
    fleet.kubectl(*apply, "two", "--force-conflicts", spec=other)
    fleet.settle()
    assert len(fleet.pods()) == 2


def test_replace_keeps_status_and_children(fleet: LiveFleet) -> None:
    fleet.create()
    fleet.settle()
    uid = fleet.child("Deployment")["metadata"]["uid"]
    status = fleet.status()
    fleet.kubectl("replace", "-f", "-", spec=changed(dict(SIM), {"minReadySeconds": 1}))
    assert (
        fleet.status()["conditions"][0]["lastTransitionTime"]
        == (status["conditions"][0]["lastTransitionTime"])
    )
    fleet.settle()
    deployment = fleet.child("Deployment")
    assert deployment["metadata"]["uid"] == uid
    assert deployment["spec"]["minReadySeconds"] == 1


def events(fleet: LiveFleet) -> list[Object]:
    """Those about the fleet."""
    found = fleet.client.items(
        f"/api/v1/namespaces/{fleet.namespace}/events",
        fieldSelector=f"involvedObject.uid={fleet.get()['metadata']['uid']}",
    )
    return sorted(found, key=lambda each: each["reason"])


def test_describe_shows_what_happened_once_with_a_count(fleet: LiveFleet) -> None:
    fleet.create()
    fleet.settle()
    for _ in range(2):
        (pod,) = fleet.pods()
        fail_pod(fleet.client, pod, message="no such model", restarts=1)
        fleet.wait_for("Ready", "False", "EngineStartFailed")
        fleet.settle()

    def told() -> list[tuple[str, str, int]]:
        found = [each for each in events(fleet) if each["type"] == "Warning"]
        return [(each["reason"], each["message"], each["count"]) for each in found]

    message = f"0 of 1 replicas ready; replica {pod['metadata']['name']}: no such model"
    fleet.wait(lambda: told() == [("EngineStartFailed", message, 2)], f"{told()} is one event")
    described = fleet.kubectl("describe", "sd/fleet")
    lines = described[described.index("Events:") :].splitlines()
    failures = [line for line in lines if "EngineStartFailed" in line]
    assert len(failures) == 1
    assert re.search(r"\(x2 over \d+s\) +sampler-operator +0 of 1 replicas ready", failures[0])
    assert [each for each in lines if " Applied " in each]


# -- autoscalers ---------------------------------------------------------------------------------


def scaled(fleet: LiveFleet, replicas: int) -> None:
    """What a HorizontalPodAutoscaler does: it replaces the Scale, as a manager of its own."""
    scale = fleet.client.get(f"{fleet.path}/scale")
    assert scale["kind"] == "Scale"
    scale["spec"]["replicas"] = replicas
    fleet.client.put(f"{fleet.path}/scale", scale, fieldManager="kube-controller-manager")


@pytest.mark.parametrize("side", ["client-side", "server-side"])
def test_what_an_autoscaler_sets_is_never_taken_back(fleet: LiveFleet, side: str) -> None:
    apply = ("apply", "-f", "-", *(["--server-side"] if side == "server-side" else []))
    fleet.kubectl(*apply, spec=SIM)
    fleet.settle()
    scaled(fleet, 3)
    fleet.settle()
    assert len(fleet.pods()) == 3
    # The same again, and a change of something else, are both silent about replicas.
    fleet.kubectl(*apply, spec=SIM)
    fleet.kubectl(*apply, spec=changed(dict(SIM), {"minReadySeconds": 1}))
    fleet.settle()
    assert fleet.get()["spec"]["replicas"] == 3
    assert fleet.child("Deployment")["spec"]["replicas"] == 3
    scaled(fleet, 1)
    fleet.settle()
    assert len(fleet.pods()) == 1
    scale = fleet.client.get(f"{fleet.path}/scale")
    assert scale["status"] == {"replicas": 1, "selector": "sampler.dev/fleet=fleet"}


def test_a_deployment_that_is_scaled_by_hand_is_set_right(fleet: LiveFleet) -> None:
    fleet.create({"replicas": 2})
    fleet.settle()
    fleet.kubectl("scale", "deployment/fleet", "--replicas=5")
    fleet.wait(lambda: fleet.child("Deployment")["spec"]["replicas"] == 2, "it is 2 again")
    fleet.settle()
    assert fleet.get()["spec"]["replicas"] == 2


def test_an_autoscaler_finds_its_target(fleet: LiveFleet) -> None:
    fleet.create({"replicas": 3})
    fleet.settle()
    path = f"/apis/autoscaling/v2/namespaces/{fleet.namespace}/horizontalpodautoscalers"
    target = {"apiVersion": "sampler.dev/v1alpha1", "kind": "SamplerDeployment", "name": "fleet"}
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": "sampler_backlog_sequences"},
            "target": {"type": "AverageValue", "averageValue": "64"},
        },
    }
    spec = {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 5, "metrics": [metric]}
    fleet.client.post(path, {"metadata": {"name": "fleet"}, "spec": spec})

    def conditions() -> Object:
        status = fleet.client.get(f"{path}/fleet").get("status", {})
        return {each["type"]: each for each in status.get("conditions", ())}

    fleet.wait(lambda: "ScalingActive" in conditions(), "the autoscaler has looked at the fleet")
    found = conditions()
    assert found["AbleToScale"]["status"] == "True", found
    # It is the metric that is missing here, not the target or its selector.
    assert found["ScalingActive"]["reason"] == "FailedGetPodsMetric", found
    assert fleet.client.get(f"{path}/fleet")["status"]["currentReplicas"] == 3
    # Its own limits hold without a metric.
    fleet.client.patch(f"{path}/fleet", {"spec": {"maxReplicas": 2}})
    fleet.wait(lambda: fleet.get()["spec"]["replicas"] == 2, "the autoscaler has scaled it")
    fleet.settle()
    assert len(fleet.pods()) == 2


def test_a_wrong_spec_is_refused_by_name(fleet: LiveFleet) -> None:
    fleet.create()
    fleet.settle()
    before = fleet.get()
    words = ("patch", "sd/fleet", "--type=merge", "--patch")
    wrong = {"spec": {"tensorParallelSize": 2, "enginesPerGPU": 2}}
    told = fleet.kubectl(*words, json.dumps(wrong), check=False)
    assert "spec.enginesPerGPU" in told
    assert "several engines share one GPU" in told
    with pytest.raises(RefusedError, match=r"spec\.replicas"):
        scaled(fleet, -1)
    assert fleet.get()["spec"] == before["spec"]
