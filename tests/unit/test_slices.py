"""EndpointSlices of a fleet's Service: which of their addresses take work, and how they change."""

import json
from typing import Any

import pytest

from sampler_api.errors import InvalidRequest
from sampler_client.discovery import Endpoint
from sampler_client.discovery.slices import ApiError, EndpointSlices, FleetName, role_binding

Object = dict[str, Any]

DATA = {"name": "data", "port": 8000, "protocol": "TCP"}


def address(*texts: str, pod: str | None = None, **conditions: bool | None) -> Object:
    made: Object = {"addresses": list(texts), "conditions": conditions}
    return made if pod is None else made | {"targetRef": {"kind": "Pod", "uid": pod}}


def slice_of(
    *addresses: Object, name: str = "a", family: str = "IPv4", ports: list[Object] | None = None
) -> Object:
    metadata = {"name": name, "resourceVersion": "7", "labels": {"any": "thing"}}
    return {
        "metadata": metadata,
        "addressType": family,
        "endpoints": list(addresses),
        "ports": [DATA] if ports is None else ports,
    }


def listed(*slices: Object) -> EndpointSlices:
    return EndpointSlices(
        json.dumps({"metadata": {"resourceVersion": "5"}, "items": slices}).encode()
    )


def event(kind: str, said: Object) -> bytes:
    return json.dumps({"type": kind, "object": said}).encode() + b"\n"


def urls(slices: EndpointSlices) -> list[str]:
    return [endpoint.url for endpoint in sorted(slices.endpoints)]


@pytest.mark.parametrize(
    ("conditions", "takes_work"),
    [
        pytest.param({"ready": True, "serving": True, "terminating": False}, True, id="is ready"),
        pytest.param({"ready": False, "serving": False, "terminating": False}, False, id="is not"),
        pytest.param({"ready": False, "serving": True, "terminating": True}, False, id="drains"),
        pytest.param({"ready": False, "serving": False, "terminating": True}, False, id="ends"),
        pytest.param({"ready": True, "serving": False}, False, id="serving counts more than ready"),
        pytest.param({"ready": False}, False, id="without serving, ready counts"),
        pytest.param({}, True, id="unknown conditions count as ready"),
        pytest.param({"ready": None, "serving": None, "terminating": None}, True, id="so do nulls"),
    ],
)
def test_an_address_takes_work_if_it(conditions: Object, takes_work: bool) -> None:
    slices = listed(slice_of(address("10.0.0.1", **conditions)))
    assert urls(slices) == (["http://10.0.0.1:8000"] if takes_work else [])


HTTPS = {**DATA, "appProtocol": "https"}
SECOND = {"name": "data-1", "port": 8001}
MANAGE = {"name": "manage", "port": 9000}


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        pytest.param([], [], id="no slice is no endpoint"),
        pytest.param(
            [slice_of(address("10.0.0.1")), slice_of(address("10.0.0.2"), name="b")],
            ["http://10.0.0.1:8000", "http://10.0.0.2:8000"],
            id="several slices are one fleet",
        ),
        pytest.param(
            [slice_of(address("10.0.0.1"), ports=[DATA, SECOND, MANAGE])],
            ["http://10.0.0.1:8000", "http://10.0.0.1:8001"],
            id="each data port is an engine, and no other port is",
        ),
        pytest.param(
            [
                slice_of(address("10.0.0.1")),
                slice_of(address("10.0.0.2"), name="b", ports=[DATA, SECOND]),
            ],
            ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.2:8001"],
            id="each slice has ports of its own, while a rollout changes their number",
        ),
        pytest.param(
            [slice_of(address("fd00:0:0::1"), family="IPv6")],
            ["http://[fd00::1]:8000"],
            id="IPv6 addresses stand in brackets, in their short form",
        ),
        pytest.param(
            [
                slice_of(address("10.0.0.1", pod="p")),
                slice_of(
                    address("fd00::1", pod="p"),
                    address("fd00::2", pod="q"),
                    name="b",
                    family="IPv6",
                ),
            ],
            ["http://10.0.0.1:8000", "http://[fd00::2]:8000"],
            id="a pod with addresses of both families is one replica",
        ),
        pytest.param(
            [slice_of(address("10.0.0.1"), ports=[HTTPS])],
            ["https://10.0.0.1:8000"],
            id="a port whose protocol is https speaks TLS",
        ),
        pytest.param(
            [slice_of(address("sim.example"), family="FQDN")], [], id="names are no addresses"
        ),
        pytest.param(
            [slice_of() | {"endpoints": None, "ports": None}], [], id="nulls are empty lists"
        ),
        pytest.param(
            [slice_of(address("10.0.0.1", "10.0.0.9"))],
            ["http://10.0.0.1:8000"],
            id="of several addresses of an endpoint the first is taken",
        ),
    ],
)
def test_endpoints(slices: list[Object], expected: list[str]) -> None:
    assert urls(listed(*slices)) == expected


def test_events_change_the_slice_that_they_name_and_no_other() -> None:
    slices = listed(slice_of(address("10.0.0.1")), slice_of(address("10.0.0.2"), name="b"))
    assert slices.version == "5"
    slices.take(event("MODIFIED", slice_of(address("10.0.0.3"))))
    assert urls(slices) == ["http://10.0.0.2:8000", "http://10.0.0.3:8000"]
    slices.take(event("ADDED", slice_of(address("10.0.0.4"), name="c")))
    slices.take(event("DELETED", slice_of(address("10.0.0.2"), name="b")))
    assert urls(slices) == ["http://10.0.0.3:8000", "http://10.0.0.4:8000"]
    slices.take(event("DELETED", slice_of(name="unknown")))
    assert slices.version == "7"


def test_a_bookmark_moves_the_place_where_a_watch_goes_on_and_nothing_else() -> None:
    slices = listed(slice_of(address("10.0.0.1")))
    bookmark = {"kind": "EndpointSlice", "metadata": {"resourceVersion": "90"}, "endpoints": None}
    slices.take(event("BOOKMARK", bookmark))
    assert (slices.version, urls(slices)) == ("90", ["http://10.0.0.1:8000"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param(
            event("ERROR", {"kind": "Status", "code": 410, "message": "too old"}),
            "410: too old",
            id="the watch fell behind",
        ),
        pytest.param(b"<html>", "not understood", id="a proxy answers"),
        pytest.param(b'{"type": "ADDED"}', "object", id="half an event"),
        pytest.param(event("ADDED", {"metadata": []}), "metadata", id="something else"),
    ],
)
def test_what_ends_a_watch_changes_nothing(line: bytes, told: str) -> None:
    slices = listed(slice_of(address("10.0.0.1")))
    with pytest.raises(ApiError, match=told):
        slices.take(line)
    assert (slices.version, urls(slices)) == ("5", ["http://10.0.0.1:8000"])


def test_siblings_share_scheme_and_address() -> None:
    assert Endpoint("https://[fd00::1]:8000", True).sibling(8001) == Endpoint(
        "https://[fd00::1]:8001"
    )
    assert Endpoint("http://10.0.0.1:8000").sibling(9).url == "http://10.0.0.1:9"


@pytest.mark.parametrize(
    ("target", "fleet"),
    [
        ("k8s://rl/policy", "rl/policy"),
        (" k8s://rl/policy/ ", "rl/policy"),
        ("k8s://policy", "own/policy"),
    ],
)
def test_a_fleet_is_named_with_or_without_its_namespace(target: str, fleet: str) -> None:
    assert str(FleetName.of(target, "own")) == fleet


@pytest.mark.parametrize(
    "target", ["k8s://", "k8s:///a", "k8s://a/b/c", "k8s://A/b", "k8s://a/b:80", "k8s://a/b.c"]
)
def test_what_names_no_fleet_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match="must be k8s://NAMESPACE/NAME") as raised:
        FleetName.of(target, "own")
    assert raised.value.field == "endpoints"


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        (
            "system:serviceaccount:train:default",
            "sampler-client-train-default --clusterrole=sampler-client"
            " --serviceaccount=train:default",
        ),
        ("ann", "sampler-client --clusterrole=sampler-client --user=ann"),
        ("a b", "sampler-client --clusterrole=sampler-client '--user=a b'"),
    ],
)
def test_a_refusal_becomes_the_command_that_ends_it(user: str, subject: str) -> None:
    refusal = f'endpointslices is forbidden: User "{user}" cannot list resource "endpointslices"'
    command = f"kubectl create rolebinding {subject} --namespace=rl"
    assert role_binding(refusal, "rl") == command
