"""``k8s://NAMESPACE/NAME`` without a cluster."""

import sys

import pytest

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_client import RemoteSampler
from sampler_client.discovery import discovery_of

pytestmark = pytest.mark.timeout(30)  # kubernetes.aio takes a second of CPU to import


@pytest.mark.parametrize(
    ("failures", "draw", "seconds"),
    [
        pytest.param(1, 0.0, 0.25, id="the first delay is half a second at most, and half of it"),
        pytest.param(1, 1.0, 0.5, id="the first delay"),
        pytest.param(2, 1.0, 1.0, id="each is twice as long"),
        pytest.param(4, 0.5, 3.0, id="each is drawn"),
        pytest.param(7, 1.0, 30.0, id="up to half a minute"),
        pytest.param(10_000, 1.0, 30.0, id="for ever"),
    ],
)
def test_delays_grow_and_differ(failures: int, draw: float, seconds: float) -> None:
    from sampler_client.discovery.k8s import retry_delay

    assert retry_delay(failures, draw) == seconds


def test_a_missing_library_is_told_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("kubernetes")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("k8s", "kube_access"):
        monkeypatch.delitem(sys.modules, f"sampler_client.discovery.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(Unsupported, match=r"pip install 'sampler-operator\[k8s\]'") as raised:
        RemoteSampler("k8s://rl/policy")
    assert raised.value.field == "endpoints"


def test_a_fleet_is_expected_and_a_certificate_by_the_name_of_its_service() -> None:
    found = discovery_of("k8s://rl/policy")
    assert found.fleet == "rl/policy"
    assert found.certificate_name == "policy-replicas.rl.svc"
    assert found.description == "k8s://rl/policy"
    # No pod: no namespace of its own.
    assert discovery_of("k8s://policy").fleet == "default/policy"


def test_a_scheme_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match=r"'etcd'; give http://.*k8s://.*dns://.*local://"):
        discovery_of("etcd://a")
