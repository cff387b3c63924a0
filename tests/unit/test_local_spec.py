"""A file for a cluster as one machine takes it; what is told of a fleet."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube_objects import pod as pod_of_cluster
from tests.kube_objects import waiting

from sampler_operator.errors import InvalidSpec, OperatorError
from sampler_operator.local.columns import age, row
from sampler_operator.local.localized import localized
from sampler_operator.local.news import news
from sampler_operator.local.places import Places, pairs
from sampler_operator.local.prepared import prepared
from sampler_operator.local.state import FleetState, PodLine
from sampler_operator.local.volumes import check_volumes
from sampler_operator.schema.defaults import with_defaults
from sampler_operator.spec.parse import parse
from sampler_operator.status import Reason
from sampler_operator.status.containers import container_fault

SIM = {"model": {"uri": "sim://m"}, "engine": {"sim": {}}}
CLAIM = {"persistentVolumeClaim": {"claimName": "loras"}}


def text(spec: dict[str, Any], *others: dict[str, Any]) -> str:
    sd = {
        "apiVersion": "sampler.dev/v1alpha1",
        "kind": "SamplerDeployment",
        "metadata": {"name": "policy"},
        "spec": spec,
    }
    return yaml.safe_dump_all([*others, sd])


def torch(**more: Any) -> dict[str, Any]:
    return {
        "model": {"uri": "hf://owner/name", "revision": "main"},
        "engine": {"torch": {}},
        "gpu": {"count": 0},
        **more,
    }


def spec_of(given: dict[str, Any], places: Places) -> dict[str, Any]:
    made: dict[str, Any] = localized(yaml.safe_load(text(given)), places, 0)["spec"]
    return made


def test_adapters_of_a_claim_are_where_its_directory_is() -> None:
    lora = {
        "volumes": [{"name": "v", "mountPath": "/adapters", "subPath": "run", **CLAIM}],
        "adapters": [{"name": "a", "path": "/adapters/a/1"}],
    }
    made = spec_of(torch(lora=lora), Places({"loras": "/data/loras/"}))["lora"]
    assert made["adapters"] == [{"name": "a", "path": "/data/loras/run/a/1"}]
    assert made["volumes"] == [
        {
            "name": "v",
            "mountPath": "/data/loras/run",
            "hostPath": {"path": "/data/loras/run"},
            "readOnly": True,
        }
    ]


def test_directories_may_be_given_by_any_path() -> None:
    lora = {"volumes": [{"name": "v", "mountPath": "/adapters", **CLAIM}]}
    [volume] = spec_of(torch(lora=lora), Places({"loras": "/data/../lo//ras/./"}))["lora"][
        "volumes"
    ]
    assert volume["mountPath"] == "/lo/ras"


@pytest.mark.parametrize(
    ("model", "places", "uri"),
    [
        pytest.param(
            {
                "uri": "hf://owner/name",
                "revision": "main",
                "tokenSecretRef": {"name": "hub"},
                "cache": {"volume": {"emptyDir": {}}},
            },
            Places(model_path="/m"),
            "file:///m",
            id="a path in place of a download",
        ),
        pytest.param(
            {"uri": "pvc://models/qwen/7b"},
            Places({"models": "/disk"}),
            "file:///disk/qwen/7b",
            id="a directory in place of a claim",
        ),
    ],
)
def test_a_model_is_where_it_was_said_to_be_under_the_name_that_clients_know(
    model: dict[str, Any], places: Places, uri: str
) -> None:
    made = spec_of(torch(model=model), places)["model"]
    assert made == {"uri": uri, "name": model["uri"].partition("://")[2]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            torch(lora={"volumes": [{"name": "v", "mountPath": "/adapters", **CLAIM}]}),
            r"spec\.lora\.volumes\[0\]: .*--volume loras=DIRECTORY",
            id="adapters in a claim",
        ),
        pytest.param(
            torch(model={"uri": "pvc://models/x"}),
            r"spec\.model\.uri: .*--volume models=DIRECTORY",
            id="a model in a claim",
        ),
        pytest.param(
            torch(model={"uri": "hf://o/n", "cache": {"volume": CLAIM}}),
            "--volume loras=DIRECTORY",
            id="downloads in a claim",
        ),
        pytest.param(
            torch(auth={"tokenSecretRef": {"name": "tokens"}}),
            "--secret tokens=DIRECTORY",
            id="tokens in a Secret",
        ),
        pytest.param(
            torch(gpu={"count": 1}),
            r"spec\.gpu\.count: a replica needs 1, this machine has no GPU; set gpu\.count: 0",
            id="a GPU that is not there",
        ),
        pytest.param(
            torch(
                lora={
                    "volumes": [
                        {"name": "v", "mountPath": "/a", "hostPath": {"path": "/no/such/place"}}
                    ]
                }
            ),
            "volume lora-v: there is no directory /no/such/place",
            id="a directory that is not there",
        ),
        pytest.param(torch(replica=1), "spec.replica: unknown field", id="a typing error"),
    ],
)
def test_what_cannot_run_here_is_told_before_anything_starts(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        prepared(text(spec), Places(), 0)


def test_everything_of_the_file_that_does_nothing_here_is_named() -> None:
    spec: dict[str, Any] = {"model": {"uri": "sim://m"}, "engine": {"sim": {}}}
    spec |= {"image": "x", "shmSize": "2Gi"}
    found = prepared(text(spec, {"kind": "Secret"}, {"kind": "Namespace"}), Places(), 0)
    assert found.notes == (
        "not used on one machine: Secret, Namespace",
        "without meaning on one machine: spec.image, spec.shmSize",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("a: [", "the file is no YAML", id="no YAML"),
        pytest.param("kind: Pod", "must hold one SamplerDeployment, not 0; it has Pod", id="none"),
        pytest.param(
            text(torch()) + "---\n" + text(torch()), "SamplerDeployment, not 2", id="two of them"
        ),
    ],
)
def test_a_file_holds_one_fleet(content: str, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        prepared(content, Places(), 0)


def test_directories_that_are_given_must_exist(tmp_path: Path) -> None:
    assert pairs([f"a={tmp_path}"], "--volume") == {"a": str(tmp_path)}
    with pytest.raises(InvalidSpec, match="must be NAME=DIRECTORY"):
        pairs(["a"], "--volume")
    with pytest.raises(InvalidSpec, match="there is no directory"):
        pairs([f"a={tmp_path}/none"], "--volume")


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        pytest.param({"name": "hub", "key": "there"}, "value", id="what is there is used"),
        pytest.param({"name": "hub", "key": "access"}, None, id="a key may be missing"),
        pytest.param({"name": "other", "key": "there"}, None, id="the Secret may be missing"),
    ],
)
def test_an_optional_secret_may_lead_nowhere(
    tmp_path: Path, ref: dict[str, str], value: str | None
) -> None:
    (tmp_path / "there").write_text("value\n")
    places = Places(secrets={"hub": str(tmp_path)})
    optional = {**ref, "optional": True}
    assert places.secret_value("rl", optional) == value
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": optional}}
    source = {"secretRef": {"name": ref["name"], "optional": True}}
    container = {"env": [variable], "envFrom": [source]}
    check_volumes({"containers": [container]}, places)
    assert places.environment(source) == places.secrets.get(ref["name"])


def test_the_key_of_a_secret_that_is_mounted_must_be_there(tmp_path: Path) -> None:
    items = [{"key": "token", "path": "token"}]
    volume = {"name": "auth", "secret": {"secretName": "tokens", "items": items}}
    places = Places(secrets={"tokens": str(tmp_path)})
    with pytest.raises(InvalidSpec, match=f"'tokens' has no key 'token': no file {tmp_path}/token"):
        check_volumes({"volumes": [volume], "containers": []}, places)


def test_a_key_that_a_secret_lacks_is_told_as_on_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("value\n")
    places = Places(secrets={"hub": str(tmp_path)})
    assert places.secret_value("rl", {"name": "hub", "key": "there"}) == "value"
    with pytest.raises(OperatorError) as caught:
        places.secret_value("rl", {"name": "hub", "key": "access"})
    said = (
        f"couldn't find key access in Secret rl/hub ({tmp_path}/access: No such file or directory)"
    )
    assert caught.value.message == said
    stuck = pod_of_cluster("p", server=waiting("CreateContainerConfigError", said))
    fault = container_fault(stuck, parse(yaml.safe_load(text(SIM))))
    assert fault is not None
    assert fault.reason == Reason.MISSING_CONFIG
    assert "Secret hub has no key access" in fault.message


def test_what_was_given_before_need_not_be_given_again() -> None:
    former = Places({"a": "/1", "b": "/2"}, {}, "/m")
    assert Places({"a": "/3"}).over(former) == Places({"a": "/3", "b": "/2"}, {}, "/m")


# -- what is told ----------------------------------------------------------------------------------


def condition(kind: str, status: str, reason: str, generation: int = 1) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": f"{reason} it is",
        "observedGeneration": generation,
    }


def state(*conditions: dict[str, Any], pods: tuple[PodLine, ...] = ()) -> FleetState:
    sd = {
        "metadata": {
            "name": "policy",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": with_defaults(yaml.safe_load(text(SIM)))["spec"],
        "status": {"conditions": list(conditions), "summary": "1/2"},
    }
    return FleetState("policy", 1, "r", sd, pods)


def pod(kind: str = "Running", *, ready: bool = False, message: str = "") -> PodLine:
    return PodLine(
        "policy-a", kind, ready, 0, 7, ("http://h:1",), "http://h:2/status", "/log", message
    )


def test_news_are_what_has_changed() -> None:
    first = state(condition("Ready", "False", "Pending"), pods=(pod(),))
    second = state(condition("Ready", "True", "Serving"), pods=(pod(ready=True),))
    failed = state(
        condition("Ready", "True", "Serving"), pods=(pod("CrashLoopBackOff", message="no model"),)
    )
    assert list(news(None, first)) == [
        "fleet policy, generation 1 of its spec",
        "pod policy-a: starts, log /log",
        "Ready=False (Pending): Pending it is",
    ]
    assert list(news(first, second)) == [
        "pod policy-a: is ready at http://h:1",
        "Ready=True (Serving): Serving it is",
    ]
    assert list(news(second, second)) == []
    assert list(news(second, failed)) == [
        "pod policy-a: is not ready any more",
        "pod policy-a: CrashLoopBackOff: no model",
    ]
    assert list(news(failed, state())) == ["pod policy-a: has ended"]


def test_a_condition_of_a_former_generation_says_nothing_of_this_one() -> None:
    assert state(condition("UpToDate", "True", "UpToDate", 1)).holds("UpToDate")
    assert not state(condition("UpToDate", "True", "UpToDate", 0)).holds("UpToDate")
    assert not state().holds("UpToDate")


def test_the_columns_are_those_of_kubectl() -> None:
    cells = row(
        state(condition("Ready", "True", "Serving")).sd, datetime.fromisoformat("2026-01-01T01:00Z")
    )
    assert cells["Name"] == "policy"
    assert cells["Ready"] == "True"
    assert cells["Replicas"] == "1/2"
    assert cells["Model"] == "sim://m"
    assert cells["Reason"] == "Serving"
    assert cells["Age"] == "60m"
    assert cells["TP"] == "1"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(5, "5s"), (119, "119s"), (125, "2m5s"), (3600, "60m"), (4 * 3600 + 60, "4h1m"), (9e4, "25h")],
)
def test_ages_are_written_as_kubectl_does(seconds: float, expected: str) -> None:
    since = datetime.fromisoformat("2026-01-01T00:00:00Z")
    assert (
        age(since.isoformat(), datetime.fromtimestamp(since.timestamp() + seconds, since.tzinfo))
        == expected
    )
