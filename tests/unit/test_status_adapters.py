"""Which adapters the status says are held, and why some are not."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from tests.kube_objects import NOW, deployment, fleet, pod, situation
from tests.spec_cases import VOLUME, adapter

from sampler_api.fleet import AdaptersConfig, AdapterState, ReplicaStatus
from sampler_operator.adapter_plan import adapters_config
from sampler_operator.objects import Manifest
from sampler_operator.observed import PodView
from sampler_operator.reports import Report
from sampler_operator.spec.parse import parse
from sampler_operator.status import status

MATH, CODE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NEW_MATH = "sha256:" + "c" * 64
ONE, TWO = pod("fleet-a-1", is_ready=True), pod("fleet-a-2", is_ready=True)
GONE = pod("fleet-b-1", is_ready=True, is_leaving=True)
SPEC = {
    "replicas": 2,
    "lora": {"volumes": [VOLUME], "adapters": [adapter("math"), adapter("code", digest=CODE)]},
}
NONE = {"replicas": 2}


def held(name: str, digest: str) -> AdapterState:
    return AdapterState(name, "held", digest)


def loading(name: str) -> AdapterState:
    return AdapterState(name, "loading")


def failed(name: str, message: str) -> AdapterState:
    return AdapterState(name, "failed", message=message)


def says(*states: AdapterState, hashed: str | None = None, error: str = "") -> ReplicaStatus:
    """A replica's account; ``hashed`` is None for the hash of what SPEC declares."""
    wanted = config_of(SPEC).declared_hash
    return ReplicaStatus(
        ready=True,
        incarnation="i",
        adapters_hash=wanted if hashed is None else hashed,
        adapters_error=error,
        declared=states,
    )


def config_of(spec: Mapping[str, object]) -> AdaptersConfig:
    return adapters_config(parse(fleet(spec)), (), {}, AdaptersConfig())


def reported(found: PodView, account: ReplicaStatus | str) -> Report:
    if isinstance(account, str):
        return Report(found.life, is_ready=True, error=account)
    return Report(found.life, is_ready=True, status=account)


BOTH = says(held("math", MATH), held("code", CODE))


@dataclass(frozen=True)
class Case:
    """Accounts of the replicas ONE and TWO, and what comes of them."""

    sentence: str
    accounts: tuple[ReplicaStatus | str | None, ...]
    verdict: str
    summary: str
    message: str
    entries: tuple[tuple[str, str | None, int, str | None], ...]
    pods: tuple[PodView, ...] = (ONE, TWO)
    replicas: int = 2


CASES = [
    Case(
        "adapters that every replica holds are ready",
        (BOTH, BOTH),
        "+AdaptersHeld",
        "2/2",
        "all 2 declared adapters are held by every ready replica",
        (("math", MATH, 2, None), ("code", CODE, 2, None)),
    ),
    Case(
        "a replica that still loads is counted for what it holds already",
        (BOTH, says(loading("math"), held("code", CODE), hashed="")),
        "-AdaptersLoading",
        "1/2",
        "adapter math is held by 1 of 2 ready replicas",
        (("math", MATH, 1, None), ("code", CODE, 2, None)),
    ),
    Case(
        "a broken adapter names the adapter, the replica and the cause",
        (BOTH, says(failed("math", "no adapter_model.safetensors"), held("code", CODE))),
        "-AdapterFailed",
        "1/2",
        "adapter math is held by 1 of 2 ready replicas: replica fleet-a-2: no"
        " adapter_model.safetensors",
        (
            ("math", MATH, 1, "replica fleet-a-2: no adapter_model.safetensors"),
            ("code", CODE, 2, None),
        ),
    ),
    Case(
        "two revisions of one name are listed apart",
        (BOTH, says(held("math", NEW_MATH), held("code", CODE))),
        "+AdaptersHeld",
        "2/2",
        "",
        (("math", MATH, 1, None), ("math", NEW_MATH, 1, None), ("code", CODE, 2, None)),
    ),
    Case(
        "another revision than the declared one is not the declared one",
        (says(held("math", MATH), held("code", MATH)), BOTH),
        "-AdaptersLoading",
        "1/2",
        "adapter code is held by 1 of 2 ready replicas",
        (("math", MATH, 2, None), ("code", CODE, 1, None)),
    ),
    Case(
        "a replica that does not answer holds nothing",
        (BOTH, "connection refused"),
        "-StatusUnreachable",
        "0/2",
        "1 of 2 ready replicas do not answer; replica fleet-a-2: connection refused",
        (("math", MATH, 1, None), ("code", CODE, 1, None)),
    ),
    Case(
        "a broken adapter is told before a replica that does not answer",
        (says(failed("math", "rank 64 is above 16"), held("code", CODE)), "timed out"),
        "-AdapterFailed",
        "0/2",
        "rank 64 is above 16",
        (("math", None, 0, "replica fleet-a-1: rank 64 is above 16"), ("code", CODE, 1, None)),
    ),
    Case(
        "a replica that was not asked yet holds nothing",
        (BOTH, None),
        "-AdaptersLoading",
        "0/2",
        "adapter math is held by 1 of 2 ready replicas; adapter code is held by 1 of 2",
        (("math", MATH, 1, None), ("code", CODE, 1, None)),
    ),
    Case(
        "an account of a former set proves nothing",
        (BOTH, says(held("math", MATH), held("code", CODE), hashed="former")),
        "-AdaptersLoading",
        "0/2",
        "held by 1 of 2",
        (("math", MATH, 1, None), ("code", CODE, 1, None)),
    ),
    Case(
        "a replica that cannot read the set says so",
        (BOTH, says(hashed="", error="adapters.json: Permission denied")),
        "-AdapterFailed",
        "0/2",
        "replica fleet-a-2: adapters.json: Permission denied",
        (("math", MATH, 1, None), ("code", CODE, 1, None)),
    ),
    Case(
        "pods that leave or are not ready do not count",
        (BOTH, None, None),
        "+AdaptersHeld",
        "2/2",
        "",
        (("math", MATH, 1, None), ("code", CODE, 1, None)),
        (ONE, GONE, pod("fleet-a-3", phase="Running")),
    ),
    Case(
        "without a ready replica nothing is held",
        (),
        "-NoReplicas",
        "0/2",
        "no replica is ready",
        (("math", None, 0, None), ("code", CODE, 0, None)),
        (),
    ),
    Case(
        "a fleet of no replicas holds nothing on purpose",
        (),
        "-ScaledToZero",
        "0/2",
        "no replica is wanted",
        (("math", None, 0, None), ("code", CODE, 0, None)),
        (),
        0,
    ),
]


def made_of(case: Case) -> Manifest:
    accounts = zip(case.pods, case.accounts, strict=True)
    spec = {**SPEC, "replicas": case.replicas}
    sd, found = situation(
        fleet(spec),
        case.pods,
        deployment(len(case.pods), ready=len(case.pods)),
        config=config_of(spec),
        reports={pod.name: reported(pod, said) for pod, said in accounts if said is not None},
    )
    return status(sd, found, NOW)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_adapters(case: Case) -> None:
    made = made_of(case)
    [condition] = [each for each in made["conditions"] if each["type"] == "AdaptersReady"]
    sign = "+" if condition["status"] == "True" else "-"
    assert sign + condition["reason"] == case.verdict
    assert case.message in condition["message"]
    assert made["adaptersSummary"] == case.summary
    entries = [
        (each["name"], each.get("digest"), each["replicas"], each.get("message"))
        for each in made["adapters"]
    ]
    assert entries == list(case.entries)


def test_an_account_of_a_former_life_is_void() -> None:
    report = Report("former", is_ready=True, status=BOTH)
    sd, found = situation(fleet(SPEC), (ONE,), config=config_of(SPEC), reports={ONE.name: report})
    assert status(sd, found, NOW)["adaptersSummary"] == "0/2"


def test_many_missing_adapters_are_told_in_short() -> None:
    adapters = [adapter(f"a{place}") for place in range(6)]
    spec = {"lora": {"volumes": [VOLUME], "adapters": adapters}}
    sd, found = situation(fleet(spec), (ONE,), config=config_of(spec))
    [condition] = [
        each for each in status(sd, found, NOW)["conditions"] if each["type"] == "AdaptersReady"
    ]
    assert condition["message"].endswith(
        "adapter a2 is held by 0 of 1 ready replicas; and 3 more adapters"
    )
