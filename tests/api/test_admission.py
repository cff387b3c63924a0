"""A real API server takes and refuses what the models do, and kubectl shows it as people expect."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.installed_crd import install_crd, sampler_path
from tests.invalid_specs import INVALID, InvalidSpecCase
from tests.proxy import wait_until
from tests.spec_cases import EVERYTHING, MINIMAL, VALID, changed, manifest

from sampler_operator.spec.parse import parse

EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))
    if "kind: SamplerDeployment" in path.read_text()
]


@pytest.fixture(scope="module", autouse=True)
def _crd(api_server: ApiServer) -> None:
    install_crd(api_server)


def try_to_create(api_server: ApiServer, made: Object) -> Object:
    """What the API server would store; unknown fields are errors, as for kubectl."""
    return api_server.client.post(
        sampler_path("default"), made, fieldValidation="Strict", dryRun="All"
    )


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.sentence)
def test_an_invalid_spec_is_refused_at_its_field(
    api_server: ApiServer, case: InvalidSpecCase
) -> None:
    with pytest.raises(RefusedError) as caught:
        try_to_create(api_server, case.manifest)
    assert caught.value.code in (400, 422)
    # Of names that must differ it tells the second one's place: spec.env[1].
    place = rf"{re.escape(case.field)}(\[\d+\]: Duplicate|: |\")"
    assert re.search(place, caught.value.message), caught.value.message
    assert case.message in caught.value.message


@pytest.mark.parametrize("spec", VALID.values(), ids=VALID.keys())
def test_a_valid_spec_is_stored_with_the_defaults_of_the_models(
    api_server: ApiServer, spec: dict[str, Any]
) -> None:
    stored = try_to_create(api_server, manifest(spec))
    assert parse(stored).spec == parse(manifest(spec)).spec


def contained(part: object, whole: object) -> bool:
    """``whole`` has all that ``part`` has, and perhaps defaults beside it."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and contained(part[name], whole[name]) for name in part)
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(contained, part, whole))
    return part == whole


def test_no_field_is_dropped(api_server: ApiServer) -> None:
    assert contained(EVERYTHING, try_to_create(api_server, manifest(EVERYTHING))["spec"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_applied(api_server: ApiServer, namespace: str, example: Path) -> None:
    words = ("apply", "--namespace", namespace, "--filename", str(example))
    done = api_server.kubectl(*words, "--validate=strict")
    assert len(done.stdout.splitlines()) == len(list(yaml.safe_load_all(example.read_text())))
    assert "Warning" not in done.stderr
    again = api_server.kubectl(*words)
    assert all(line.endswith(" unchanged") for line in again.stdout.splitlines())


Apply = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(params=["client-side", "server-side"])
def apply(api_server: ApiServer, namespace: str, request: pytest.FixtureRequest) -> Apply:
    """``kubectl apply`` of a spec, in both ways: the spec that is stored then."""

    def applied(spec: dict[str, Any]) -> dict[str, Any]:
        words = ("apply", "--namespace", namespace, "--filename", "-")
        side = ("--server-side",) if request.param == "server-side" else ()
        api_server.kubectl(*words, *side, input=json.dumps(manifest(spec)))
        stored: dict[str, Any] = api_server.client.get(sampler_path(namespace, "fleet"))["spec"]
        return stored

    return applied


def test_an_engine_is_exchanged_by_apply(apply: Apply) -> None:
    torch = changed(MINIMAL, {"engine": {"torch": {"maxModelLen": 64}}})
    assert apply(torch)["engine"]["torch"]["dtype"] == "auto"
    stored = apply(MINIMAL | {"engine": {"vllm": {}}})["engine"]
    assert "torch" not in stored
    assert stored["vllm"]["enablePrefixCaching"] is True
    assert "vllm" not in apply(torch)["engine"]


def test_a_cache_is_given_and_taken_away_by_apply(apply: Apply) -> None:
    assert "cache" not in apply(MINIMAL)["model"]
    sources: list[dict[str, Any]] = [
        {"persistentVolumeClaim": {"claimName": "a"}},
        {"emptyDir": {}},
    ]
    for source in sources:
        volume = {"volume": source}
        assert apply(changed(MINIMAL, {"model": {"cache": volume}}))["model"]["cache"] == volume
    assert "cache" not in apply(MINIMAL)["model"]


def test_apply_leaves_replicas_to_an_autoscaler(
    api_server: ApiServer, namespace: str, apply: Apply
) -> None:
    assert apply(MINIMAL)["replicas"] == 1
    api_server.kubectl("scale", "sd/fleet", "--replicas=7", "--namespace", namespace)
    assert apply(MINIMAL | {"paused": True})["replicas"] == 7


def test_nulls_that_take_away_outlive_a_server_side_apply(
    api_server: ApiServer, namespace: str
) -> None:
    spec = MINIMAL | {"podSecurityContext": {"runAsUser": None}}
    words = ("apply", "--namespace", namespace, "--filename", "-")
    api_server.kubectl(*words, "--server-side", input=json.dumps(manifest(spec)))
    stored = api_server.client.get(sampler_path(namespace, "fleet"))["spec"]
    assert stored["podSecurityContext"] == {"runAsUser": None}


def condition(kind: str, status: str, reason: str, message: str) -> Object:
    time = "2026-01-01T00:00:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time,
        "observedGeneration": 1,
    }


STATUS: Object = {
    "observedGeneration": 1,
    "replicas": 3,
    "readyReplicas": 2,
    "updatedReplicas": 3,
    "selector": "sampler.dev/fleet=fleet",
    "summary": "2/3",
    "adaptersSummary": "1/2",
    "engine": "torch",
    "image": "registry.example/sampler:1",
    "conditions": [
        condition("Accepted", "True", "Valid", ""),
        condition("Ready", "True", "Serving", "2 of 3 replicas serve"),
        condition("UpToDate", "True", "Converged", ""),
    ],
    "adapters": [
        {"name": "a", "digest": "sha256:00", "replicas": 3},
        {"name": "b", "replicas": 0, "message": "no such directory"},
    ],
    "bases": [{"template": "abc", "digest": "sha256:00"}],
}


@pytest.fixture
def fleet(api_server: ApiServer, namespace: str) -> str:
    """Where a SamplerDeployment with a status is."""
    api_server.client.post(sampler_path(namespace), manifest(MINIMAL | {"replicas": 3}))
    path = sampler_path(namespace, "fleet")
    stored = api_server.client.patch(f"{path}/status", {"status": STATUS})
    assert stored["status"] == STATUS
    return path


def table(api_server: ApiServer, *words: str) -> tuple[str, list[str]]:
    """The heading and the one row of a table, as the cells that have something."""
    heading, row = api_server.kubectl("get", *words).stdout.splitlines()
    return " ".join(heading.split()), re.split(r"\s{2,}", row.strip())


@pytest.mark.usefixtures("fleet")
def test_get_shows_what_people_ask_first(api_server: ApiServer, namespace: str) -> None:
    heading, row = table(api_server, "sd", "--namespace", namespace)
    assert heading == "NAME READY REPLICAS ENGINE TP MODEL ADAPTERS AGE"
    assert row[:-1] == ["fleet", "True", "2/3", "torch", "1", "hf://owner/model", "1/2"]
    heading, row = table(api_server, "samplerdeployments", "-o", "wide", "--namespace", namespace)
    assert heading.endswith(" AGE REASON MESSAGE IMAGE")
    assert row[-3:] == ["Serving", "2 of 3 replicas serve", "registry.example/sampler:1"]
    everything = api_server.kubectl("get", "all", "--namespace", namespace).stdout
    assert "samplerdeployment.sampler.dev/fleet" in everything


def test_a_fleet_without_status_has_a_row_too(api_server: ApiServer, namespace: str) -> None:
    api_server.client.post(sampler_path(namespace), manifest(MINIMAL))
    _, row = table(api_server, "sd", "--namespace", namespace)
    assert row[:3] == ["fleet", "1", "hf://owner/model"]


def test_scale_has_what_an_autoscaler_reads(
    api_server: ApiServer, namespace: str, fleet: str
) -> None:
    scale = api_server.client.get(f"{fleet}/scale")
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 3, "selector": "sampler.dev/fleet=fleet"}
    api_server.kubectl("scale", "sd/fleet", "--replicas=5", "--namespace", namespace)
    assert api_server.client.get(fleet)["spec"]["replicas"] == 5


def test_one_can_wait_for_a_condition(api_server: ApiServer, namespace: str, fleet: str) -> None:
    words = ("wait", "sd/fleet", "--namespace", namespace, "--for=condition=UpToDate")
    assert "condition met" in api_server.kubectl(*words, "--timeout=20s").stdout


def test_spec_and_status_are_written_apart(api_server: ApiServer, fleet: str) -> None:
    client = api_server.client
    both = {"spec": {"replicas": 9}, "status": {"replicas": 8}}
    assert client.patch(f"{fleet}/status", both)["spec"]["replicas"] == 3
    stored = client.patch(fleet, both)
    assert stored["status"]["replicas"] == 8
    assert stored["metadata"]["generation"] == 2


def test_a_status_of_another_shape_is_refused(api_server: ApiServer, fleet: str) -> None:
    wrong = {"status": {"conditions": [{"type": "Ready", "status": "Perhaps"}]}}
    with pytest.raises(RefusedError, match=r"status.conditions\[0\].status.*\"Perhaps\""):
        api_server.client.patch(f"{fleet}/status", wrong)


OBJECTS = (
    "spec",
    "spec.engine.vllm",
    "spec.lora.volumes",
    "spec.model.cache",
    "spec.networkPolicy",
    "spec.rollout",
    "status",
    "status.conditions",
)


def test_explain_tells_every_field(api_server: ApiServer) -> None:
    def explained(*words: str, check: bool = True) -> str:
        return api_server.kubectl("explain", *words, check=check).stdout

    # The API server publishes schemas some time after it serves the kind.
    wait_until(lambda: "engine\t" in explained("sd.spec", check=False), "kubectl explains it")
    told = explained("samplerdeployment.spec", "--recursive")
    for line in (r" +maxKvTokens\t<integer>", r" +uri\t<string> -required-"):
        assert re.search(f"^{line}$", told, re.MULTILINE)
    for each in OBJECTS:
        text = explained(f"sd.{each}")
        assert "FIELDS:" in text
        assert "<no description>" not in text
    assert "CPU threads of an engine, of all its ranks together." in explained(
        "sd.spec.engine.torch.threads"
    )
