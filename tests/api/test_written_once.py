"""What a real API server makes of our manifests is what they say: nothing is written twice.

The API server fills in defaults, drops zero values and writes amounts in its own way; a comparison
that takes this for a difference would write with every pass, for ever.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.golden_templates import GOLDEN
from tests.installed_crd import install_crd
from tests.spec_cases import MINIMAL, changed, manifest
from tests.spec_effects import EFFECTS, SECTIONS, SpecEffect

from sampler_api.fleet import AdaptersConfig
from sampler_operator.adapter_plan import adapters_config
from sampler_operator.kube.resources import CHILDREN, SAMPLER_DEPLOYMENTS, path_of
from sampler_operator.names import FIELD_MANAGER, Ref
from sampler_operator.objects import Manifest
from sampler_operator.observed import ChildView, Observed, child_view
from sampler_operator.plan import BuildSettings, Plan, planned
from sampler_operator.spec.parse import parse

NAMESPACE = "written-once"
SETTINGS = BuildSettings({kind: f"acme/{kind}:1" for kind in ("vllm", "torch", "sim")}, "operators")


class Fleet:
    """The children of one SamplerDeployment, written as the operator writes them."""

    def __init__(self, server: ApiServer) -> None:
        self._client = server.client
        made = self._client.post(
            path_of(SAMPLER_DEPLOYMENTS, NAMESPACE), manifest({**MINIMAL, "replicas": 0})
        )
        # With an owner that does not exist, the garbage collector would take the children.
        self._metadata = made["metadata"]
        self._children: dict[Ref, ChildView] = {}

    def plan(self, given: Manifest) -> Plan:
        """What there is to write; no kind that this cluster does not have."""
        sd = parse({**given, "metadata": self._metadata})
        config = adapters_config(sd, (), {}, AdaptersConfig())
        made = planned(sd, Observed(given, self._children), config, SETTINGS)
        applies = tuple(m for m in made.applies if m["kind"] != "PodMonitor")
        return Plan(made.template, applies, made.deletes, made.why)

    def write(self, given: Manifest) -> None:
        """One pass."""
        plan = self.plan(given)
        for child in plan.applies:
            path = path_of(CHILDREN[child["kind"]], NAMESPACE, child["metadata"]["name"])
            answer = self._client.apply(path, child, manager=FIELD_MANAGER)
            view = child_view(answer)
            self._children[view.ref] = view
        for ref in plan.deletes:
            self._client.delete(path_of(CHILDREN[ref.kind], NAMESPACE, ref.name))
            del self._children[ref]


@pytest.fixture(scope="module")
def fleet(api_server: ApiServer) -> Iterator[Fleet]:
    install_crd(api_server)
    client = api_server.client
    make_namespace(client, NAMESPACE)
    yield Fleet(api_server)
    end_namespace(client, NAMESPACE)


def resting(given: Manifest) -> Manifest:
    """Without pods, unless the number of pods is what is given."""
    return {**given, "spec": {"replicas": 0, **given["spec"]}}


def check(fleet: Fleet, given: Manifest) -> None:
    fleet.write(resting(given))
    left = fleet.plan(resting(given))
    assert (left.applies, left.deletes) == ((), ()), left.details


@pytest.mark.parametrize("row", [*EFFECTS, *SECTIONS], ids=lambda row: row.path)
def test_a_changed_field_is_written_once(fleet: Fleet, row: SpecEffect) -> None:
    check(fleet, row.before)
    check(fleet, row.after)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_a_golden_template_is_written_once(fleet: Fleet, golden: Any) -> None:
    check(fleet, manifest(golden.sd.spec.model_dump(by_alias=True, mode="json")))


def in_container(**fields: Any) -> dict[str, Any]:
    server = {"name": "server", **fields}
    return {"podTemplateOverrides": {"spec": {"containers": [server]}}}


def in_pod(**fields: Any) -> dict[str, Any]:
    return {"podTemplateOverrides": {"spec": fields}}


ZONE = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}

STRANGE: dict[str, dict[str, Any]] = {
    "amounts in other units": {
        "resources": {
            "requests": {"cpu": "0.5", "memory": "1024Mi"},
            "limits": {"cpu": "1000m", "memory": "2147483648", "example.com/nic": 1},
        },
        "shmSize": "1e9",
    },
    "variables without a value, or an empty one": {
        "env": [{"name": "A"}, {"name": "B", "value": ""}, {"name": "C", "value": "c"}]
    },
    "a divisor as a number and in other units": {
        "env": [
            {
                "name": name,
                "valueFrom": {
                    "resourceFieldRef": {"resource": "limits.memory", "divisor": divisor}
                },
            }
            for name, divisor in {"A": "1024Ki", "B": 1, "C": "0"}.items()
        ]
    },
    "two constraints about one topology": {
        "topologySpreadConstraints": [ZONE, ZONE | {"whenUnsatisfiable": "ScheduleAnyway"}]
    },
    "the same two constraints in another order": {
        "topologySpreadConstraints": [ZONE | {"whenUnsatisfiable": "ScheduleAnyway"}, ZONE]
    },
    "tolerations in their shortest forms": {
        "tolerations": [
            {"operator": "Exists"},
            {"key": "a", "value": "", "effect": "NoSchedule"},
            {"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
        ]
    },
    "labels and annotations without a value": {
        "podMetadata": {"labels": {"a": ""}, "annotations": {"b": ""}},
        "nodeSelector": {"gpu": ""},
    },
    "an affinity with nulls and empty terms": {
        "affinity": {
            "nodeAffinity": None,
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "podAffinityTerm": {
                            "topologyKey": "zone",
                            "namespaceSelector": {},
                            "labelSelector": {
                                "matchExpressions": [{"key": "a", "operator": "Exists"}]
                            },
                        },
                    }
                ]
            },
        }
    },
    "no security context at all": {
        "podTemplateOverrides": {"spec": {"securityContext": {"$patch": "replace"}}}
    },
    "a host network, which gets host ports": in_pod(hostNetwork=True),
    "false and zero in a pod": in_pod(
        hostIPC=False, hostNetwork=False, priority=0, terminationGracePeriodSeconds=0
    ),
    "a port without a protocol, and one for UDP": in_container(
        ports=[{"containerPort": 1234}, {"containerPort": 1234, "protocol": "UDP"}]
    ),
    "a port with more said of it": in_container(ports=[{"containerPort": 8000, "hostPort": 8000}]),
    "probes of other kinds": in_container(
        livenessProbe={"httpGet": None, "exec": {"command": ["true"]}},
        startupProbe={"httpGet": None, "tcpSocket": {"port": 8000}},
    ),
    "hooks and empty words": in_container(
        args=["serve", ""], lifecycle={"preStop": {"sleep": {"seconds": 1}}}, stdin=False
    ),
    "a sidecar that starts first": in_pod(
        initContainers=[{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}]
    ),
    "volumes of all kinds": in_pod(
        volumes=[
            {"name": "a", "configMap": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
            {"name": "b", "downwardAPI": {"items": []}},
            {
                "name": "c",
                "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]},
            },
            {
                "name": "d",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "1024Gi"}},
                        }
                    }
                },
            },
            {"name": "e", "csi": {"driver": "a.example", "readOnly": False}},
            {"name": "f", "emptyDir": {"medium": "", "sizeLimit": "1024Mi"}},
            {"name": "g", "secret": {"secretName": "a", "optional": False, "defaultMode": 256}},
        ]
    ),
    "peers of all kinds in a policy": {
        "networkPolicy": {
            "enabled": True,
            "from": [
                {"podSelector": {}},
                {"namespaceSelector": {"matchLabels": {"a": ""}}, "podSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ],
            "monitoringNamespaces": ["monitoring"],
        },
        "enginesPerGPU": 3,
    },
    "a budget of none": {"disruptionBudget": {"maxUnavailable": 0}},
    "a budget in per cent": {"disruptionBudget": {"maxUnavailable": "0%"}},
    "surge in per cent": {"rollout": {"maxSurge": "25%", "maxUnavailable": "0%"}},
    "surge in pods": {"rollout": {"maxSurge": 1, "maxUnavailable": 0}},
    "recreating": {"rollout": {"strategy": "Recreate"}},
    "rolling again": {},
    "paused": {"paused": True},
    "going on": {"paused": False, "minReadySeconds": 0},
}


@pytest.mark.parametrize("spec", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_spec_is_written_once(fleet: Fleet, spec: dict[str, Any]) -> None:
    check(fleet, manifest(changed(MINIMAL, spec)))
