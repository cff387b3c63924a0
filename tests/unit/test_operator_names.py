"""Names that outlive an operator: another one would not find again what this one has made."""

import pytest

from sampler_operator import names
from sampler_operator.kube.resources import CHILDREN, PODS, SAMPLER_DEPLOYMENTS, Resource, path_of
from sampler_operator.names import Key, Ref

KEY = Key("rl", "fleet")


def test_labels_and_selector_of_a_fleet_never_change() -> None:
    """A Deployment's selector is immutable, and children are watched by label."""
    assert names.selector(KEY) == {"sampler.dev/fleet": "fleet"}
    assert names.labels(KEY) == {
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/instance": "fleet",
        "app.kubernetes.io/managed-by": "sampler-operator",
        "app.kubernetes.io/name": "sampler",
        "sampler.dev/fleet": "fleet",
    }
    assert names.FIELD_MANAGER == "sampler-operator"


def test_annotations_that_an_operator_remembers_by_never_change() -> None:
    """Without them an upgrade would take every spec for a changed one, and restart all pods."""
    assert (names.TEMPLATE_VERSION, names.TEMPLATE_DIGEST, names.DEFAULT_IMAGE) == (
        "sampler.dev/template-version",
        "sampler.dev/template-digest",
        "sampler.dev/default-image",
    )
    assert (names.DIGEST, names.ADAPTERS_HASH) == (
        "sampler.dev/digest",
        "sampler.dev/adapters-hash",
    )


def test_children_are_called_after_their_fleet() -> None:
    assert names.deployment_name(KEY) == names.service_name(KEY) == "fleet"
    assert names.discovery_name(KEY) == "fleet-replicas"
    assert names.adapters_name(KEY) == "fleet-adapters"


def test_engines_of_a_pod_have_consecutive_ports() -> None:
    assert names.data_ports(1) == [("data", 8000)]
    assert names.data_ports(3) == [("data", 8000), ("data-1", 8001), ("data-2", 8002)]
    assert names.manage_port() == 9000


def test_all_ports_of_the_largest_pod_are_different_and_have_short_names() -> None:
    ports = [*names.data_ports(16), (names.MANAGE_PORT_NAME, names.manage_port())]
    assert len({number for _, number in ports}) == 17
    # Names of ports have at most 15 characters.
    assert all(len(name) <= 15 for name, _ in ports)


def test_keys_and_refs_read_as_people_write_them() -> None:
    assert str(KEY) == "rl/fleet"
    assert str(Ref("Service", "fleet")) == "Service fleet"


PATHS = {
    "a core kind": (PODS, "p", "/api/v1/namespaces/rl/pods/p"),
    "a list": (PODS, "", "/api/v1/namespaces/rl/pods"),
    "a kind of a group": (
        CHILDREN["Deployment"],
        "fleet",
        "/apis/apps/v1/namespaces/rl/deployments/fleet",
    ),
    "our own kind": (
        SAMPLER_DEPLOYMENTS,
        "fleet",
        "/apis/sampler.dev/v1alpha1/namespaces/rl/samplerdeployments/fleet",
    ),
}


@pytest.mark.parametrize(("resource", "name", "path"), PATHS.values(), ids=PATHS.keys())
def test_the_path_of(resource: Resource, name: str, path: str) -> None:
    assert path_of(resource, "rl", name) == path
