"""Who a replica is, from the environment of its pod."""

import pytest

from sampler_api.errors import InvalidRequest, ModelInvalid
from sampler_server.identity import Identity, base_problem, check_base

POD = {
    "SAMPLER_POD_NAME": "policy-0",
    "SAMPLER_POD_NAMESPACE": "rl",
    "SAMPLER_FLEET_NAME": "policy",
    "SAMPLER_FLEET_UID": "1-2",
    "SAMPLER_TEMPLATE_HASH": "abc",
}


@pytest.mark.parametrize(
    ("environment", "identity"),
    [
        pytest.param({}, Identity(), id="a server that was started by hand"),
        pytest.param(POD, Identity("policy-0", "rl/policy/1-2", "abc"), id="a pod of a fleet"),
        pytest.param({"SAMPLER_POD_NAME": "box"}, Identity("box"), id="a named server alone"),
    ],
)
def test_the_environment_says_who_a_replica_is(
    environment: dict[str, str], identity: Identity
) -> None:
    assert Identity.of_environment(environment) == identity


@pytest.mark.parametrize("missing", ["SAMPLER_POD_NAMESPACE", "SAMPLER_FLEET_UID"])
def test_half_a_fleet_is_refused_by_name(missing: str) -> None:
    with pytest.raises(InvalidRequest, match=missing):
        Identity.of_environment({**POD, missing: ""})


def test_engines_of_one_pod_have_names_of_their_own() -> None:
    assert Identity.of_environment(POD).of_engine(8001).replica == "policy-0:8001"


@pytest.mark.parametrize(
    ("base", "template", "is_problem"),
    [
        pytest.param("sha256:1", "t", False, id="the base of its template"),
        pytest.param("sha256:2", "t", True, id="another base than its template's"),
        pytest.param("sha256:2", "u", False, id="a template without a base yet"),
        pytest.param("sha256:2", "", False, id="a server without a template"),
        pytest.param("", "t", False, id="a base that is not known yet"),
    ],
)
def test_a_replica_has_the_base_of_its_template(base: str, template: str, is_problem: bool) -> None:
    assert bool(base_problem(base, {"t": "sha256:1"}, template)) is is_problem


def test_another_base_than_asked_for_fails_with_both_digests() -> None:
    check_base("sha256:1", None)
    check_base("sha256:1", "sha256:1")
    with pytest.raises(ModelInvalid, match="base sha256:1 differs from --model-digest sha256:2"):
        check_base("sha256:1", "sha256:2")
