"""A new operator, and a former one that comes back: pods restart when their spec changes, and not
because the operator did. A restart on a cluster that is as it should be writes nothing.
"""

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.fleet_objects import children, replica_sets
from tests.installed_crd import install_crd, sampler_path
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.operator_thread import OperatorThread
from tests.proxy import wait_until
from tests.spec_cases import manifest

from sampler_operator.names import GROUP, PLURAL
from sampler_operator.objects import Manifest
from sampler_operator.plan import BuildSettings
from sampler_operator.pod import LAYOUTS, Layout
from sampler_operator.schema import crd
from sampler_operator.spec import SamplerDeployment

MARK = {"name": "LAYOUT", "value": "2"}


def _layout_2(sd: SamplerDeployment, default_image: str) -> Manifest:
    template = copy.deepcopy(LAYOUTS[1](sd, default_image))
    template["spec"]["containers"][0]["env"].append(MARK)
    return template


def release(number: int, layouts: Mapping[int, Layout]) -> BuildSettings:
    """An operator of that release."""
    return BuildSettings({"sim": f"registry.example/sim:{number}"}, layouts=layouts)


FORMER = release(1, {1: LAYOUTS[1]})
NEXT = release(2, {1: LAYOUTS[1], 2: _layout_2})
LATER = release(3, {2: _layout_2})


@pytest.fixture(scope="module", autouse=True)
def _crd(api_server: ApiServer) -> None:
    install_crd(api_server)


@pytest.fixture
def fleet(api_server: ApiServer, namespace: str) -> LiveFleet:
    """Of the former release. Without a scheduler nothing happens to its pods."""
    made = LiveFleet(api_server, namespace)
    made.create({"schedulerName": "nobody", "replicas": 2})
    with operator(made, FORMER) as former:
        made.wait(lambda: counts(made) == (2, 2), "the pods are made")
        wait_until_quiet(former.writes)
    return made


def operator(fleet: LiveFleet, settings: BuildSettings) -> OperatorThread:
    return OperatorThread(fleet.server.admin_kubeconfig, fleet.namespace, build=settings)


def counts(fleet: LiveFleet) -> tuple[int, int]:
    """Replicas, and those of the present template, as the operator has seen them last."""
    status = fleet.status()
    return status.get("replicas", 0), status.get("updatedReplicas", 0)


def container(fleet: LiveFleet) -> Object:
    found: Object = fleet.child("Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def rollouts(fleet: LiveFleet) -> int:
    """How often the pod template has changed, the first one included."""
    annotations = fleet.child("Deployment")["metadata"]["annotations"]
    return int(annotations["deployment.kubernetes.io/revision"])


def everything(fleet: LiveFleet) -> Object:
    """All children and ReplicaSets, with the versions of their states."""
    return {
        **children(fleet.client, fleet.namespace),
        **replica_sets(fleet.client, fleet.namespace),
    }


def wait_until_quiet(writes: Callable[[], object]) -> None:
    """Until nothing is written for longer than one status write waits for the next."""
    seen: object = None
    while (now := writes()) != seen:
        seen = now
        threading.Event().wait(1.2)


def wait_for_pass(operator: OperatorThread) -> None:
    """It has looked at the fleet."""
    wait_until(lambda: operator.passes() > 0, "a pass has ended")


def test_an_upgrade_alone_touches_nothing(fleet: LiveFleet) -> None:
    before = everything(fleet)
    with operator(fleet, NEXT) as upgraded:
        wait_for_pass(upgraded)
        assert upgraded.writes() == {}
    assert everything(fleet) == before


def test_after_an_upgrade_what_rolls_no_pods_still_rolls_none(fleet: LiveFleet) -> None:
    before = container(fleet)
    with operator(fleet, NEXT):
        fleet.change({"replicas": 3, "minReadySeconds": 1})
        fleet.wait(lambda: counts(fleet) == (3, 3), "the fleet is scaled")
    assert container(fleet) == before
    assert rollouts(fleet) == len(fleet.replica_sets()) == 1


def test_after_an_upgrade_a_changed_spec_moves_to_the_new_layout_and_image_in_one_rollout(
    fleet: LiveFleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sampler_operator")
    names = set(children(fleet.client, fleet.namespace))
    assert container(fleet)["image"] == "registry.example/sim:1"
    with operator(fleet, NEXT):
        generation = fleet.child("Deployment")["metadata"]["generation"]
        fleet.change({"env": [{"name": "NEW", "value": "1"}]})
        fleet.wait(lambda: counts(fleet)[1] == 1, "the rollout has begun")
    found = container(fleet)
    assert MARK in found["env"]
    assert {"name": "NEW", "value": "1"} in found["env"]
    assert found["image"] == "registry.example/sim:2"
    assert fleet.child("Deployment")["metadata"]["generation"] == generation + 1
    assert rollouts(fleet) == len(fleet.replica_sets()) == 2
    assert set(children(fleet.client, fleet.namespace)) == names
    assert "pods go from layout 1 to layout 2" in caplog.text
    move = "the default image goes from registry.example/sim:1 to registry.example/sim:2"
    assert move in caplog.text


def test_an_operator_that_does_not_know_a_layout_moves_its_pods_once_and_says_so(
    fleet: LiveFleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sampler_operator")
    before = container(fleet)
    with operator(fleet, NEXT):
        fleet.change({"env": [{"name": "NEW", "value": "1"}]})
        fleet.wait(lambda: counts(fleet)[1] == 1, "the rollout has begun")
    with operator(fleet, FORMER):
        fleet.wait(lambda: MARK not in container(fleet)["env"], "the former layout is back")
        fleet.wait(lambda: rollouts(fleet) == 3, "the rollout has begun")
    assert "pods go from layout 2, which this operator does not know, to layout 1" in caplog.text
    assert container(fleet) == before | {"env": [*before["env"], {"name": "NEW", "value": "1"}]}
    with operator(fleet, FORMER) as again:
        wait_for_pass(again)
        assert "Deployment" not in {kind for kind, _ in again.writes()}
    assert rollouts(fleet) == len(fleet.replica_sets()) == 3


def test_a_release_without_the_layout_of_a_fleet_moves_it_once(fleet: LiveFleet) -> None:
    with operator(fleet, LATER):
        fleet.wait(lambda: MARK in container(fleet)["env"], "the layout of the release is there")
        fleet.wait(lambda: rollouts(fleet) == 2, "the rollout has begun")
    assert container(fleet)["image"] == "registry.example/sim:3"
    assert len(fleet.replica_sets()) == 2


def test_a_restart_writes_nothing(api_server: ApiServer, namespace: str) -> None:
    fleets = [LiveFleet(api_server, namespace, engine) for engine in ("sim", "torch", "vllm")]
    with OperatorProcess(api_server, "--namespace", namespace) as process:
        for fleet in fleets:
            uri = "sim://policy" if fleet.name == "sim" else "hf://owner/model"
            spec = {"model": {"uri": uri}, "engine": {fleet.name: {}}, "schedulerName": "nobody"}
            fleet.client.post(sampler_path(namespace), manifest(spec, fleet.name))
        for fleet in fleets:
            fleet.wait(lambda fleet=fleet: counts(fleet) == (1, 1), "the pods are made")  # type: ignore[misc]
        wait_until_quiet(process.writes)
        before = everything(fleets[0])
        assert process.stop() == 0
        process.start()

        def passes() -> float:
            return process.metrics().get('sampler_operator_reconciles_total{result="ok"}', 0.0)

        wait_until(lambda: passes() >= len(fleets), "it has looked at every fleet")
        assert process.writes() == 0
    assert everything(fleets[0]) == before


@pytest.fixture
def newer_crd(api_server: ApiServer) -> Iterator[None]:
    """A schema with a field that this operator has never heard of."""
    newer = copy.deepcopy(crd())
    schema = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["novel"] = {"type": "string"}
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
    api_server.client.apply(path, newer)
    yield
    install_crd(api_server)


@pytest.mark.usefixtures("newer_crd")
def test_a_former_operator_scales_a_spec_of_a_newer_one_and_leaves_its_pods_alone(
    fleet: LiveFleet,
) -> None:
    before = container(fleet)
    with operator(fleet, FORMER):

        def is_taken() -> bool:
            # The new schema is served some time after it was taken.
            fleet.change({"novel": "a", "replicas": 3})
            return bool(fleet.get()["spec"].get("novel")) and counts(fleet) == (3, 3)

        fleet.wait(is_taken, "the fleet is scaled")
        assert fleet.condition("Accepted")["status"] == "True"
        fleet.wait(lambda: "UnknownField" in fleet.kubectl("get", "events"), "the field is told")
        fleet.change({"env": [{"name": "NEW", "value": "1"}]})
        said = fleet.wait_for("Accepted", "False", "InvalidSpec")
        assert said.startswith("spec.novel: unknown to this operator")
        assert container(fleet) == before
        assert counts(fleet) == (3, 3)
        fleet.change({"novel": None})
        fleet.wait(lambda: {"name": "NEW", "value": "1"} in container(fleet)["env"], "it goes on")
