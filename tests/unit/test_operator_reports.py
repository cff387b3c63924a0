"""Who is asked for its status, and when there is nothing more to ask."""

from dataclasses import dataclass

import pytest
from tests.kube_objects import pod, running, waiting

from sampler_api.fleet import AdapterState, ReplicaStatus
from sampler_api.frames import Load
from sampler_operator.observed import PodView
from sampler_operator.reports import (
    FIRST_DELAY,
    LAST_DELAY,
    Report,
    current,
    has_unasked,
    is_askable,
    is_settled,
    next_delay,
    steady,
)

READY = pod(is_ready=True)
STARTING = pod(server=running())
HASH = "0123"


def status(adapters_hash: str = HASH, *states: str) -> ReplicaStatus:
    declared = tuple(AdapterState(f"a{n}", state) for n, state in enumerate(states))  # type: ignore[arg-type]
    return ReplicaStatus(True, "i", adapters_hash=adapters_hash, declared=declared)


ASKABLE: dict[str, tuple[PodView, bool]] = {
    "a ready pod answers": (READY, True),
    "a server that starts answers": (STARTING, True),
    "a pod without an address does not": (pod(server=waiting("ContainerCreating")), False),
    "a pod that leaves is of no interest": (pod(is_ready=True, is_leaving=True), False),
    "a pod that was not scheduled does not": (pod(unschedulable="no room"), False),
    "a server between two starts does not": (
        pod(server=waiting("CrashLoopBackOff", restarts=1)),
        False,
    ),
    "the download is no server": (pod(fetch=running()), False),
}


@pytest.mark.parametrize(("found", "expected"), ASKABLE.values(), ids=ASKABLE.keys())
def test_askable(found: PodView, expected: bool) -> None:
    assert is_askable(found) == expected


def test_a_ready_pod_whose_containers_are_not_told_is_askable() -> None:
    bare = PodView("p", "u", "fleet", "a", "", "Running", ip="10.0.0.1", is_ready=True)
    assert is_askable(bare)


@dataclass(frozen=True)
class Case:
    pod: PodView
    report: Report | None
    is_settled: bool
    adapters_hash: str = HASH


def answered(found: PodView, made: ReplicaStatus | None, *, ready: bool | None = None) -> Report:
    is_ready = found.is_ready if ready is None else ready
    return Report(found.life, is_ready, made, error="" if made else "no answer")


SETTLED: dict[str, Case] = {
    "who was never asked is not settled": Case(READY, None, False),
    "who did not answer is not settled": Case(READY, answered(READY, None), False),
    "a ready replica with the adapters is settled": Case(
        READY, answered(READY, status(HASH, "held")), True
    ),
    "a failed adapter does not change by asking": Case(
        READY, answered(READY, status(HASH, "held", "failed")), True
    ),
    "an adapter that is being loaded is awaited": Case(
        READY, answered(READY, status(HASH, "held", "loading")), False
    ),
    "adapters of before are not the adapters": Case(READY, answered(READY, status("old")), False),
    "without adapters there is nothing to take in": Case(
        READY, answered(READY, status("")), True, adapters_hash=""
    ),
    "adapters that should be gone are awaited": Case(
        READY, answered(READY, status(HASH)), False, adapters_hash=""
    ),
    "a replica that is not ready is asked on": Case(STARTING, answered(STARTING, status()), False),
    "a replica that became ready is asked again": Case(
        READY, answered(READY, status(), ready=False), False
    ),
    "a replica that is no longer ready is asked again": Case(
        STARTING, answered(STARTING, status(), ready=True), False
    ),
    "a server that started again is asked again": Case(
        READY, Report("another life", True, status()), False
    ),
}


@pytest.mark.parametrize("case", SETTLED.values(), ids=SETTLED.keys())
def test_settled(case: Case) -> None:
    assert is_settled(case.pod, case.report, case.adapters_hash) == case.is_settled


def test_delays_double_up_to_the_last() -> None:
    delays = [FIRST_DELAY]
    while len(delays) < 7:
        delays.append(next_delay(delays[-1]))
    assert delays == [0.5, 1, 2, 4, 8, LAST_DELAY, LAST_DELAY]
    assert LAST_DELAY == 10


def test_reports_hold_for_the_life_that_made_them() -> None:
    reports = {
        READY.name: answered(READY, status()),
        "gone": answered(READY, status()),
    }
    assert current((READY,), reports) == {READY.name: reports[READY.name]}
    assert current((), reports) == {}
    again = pod(is_ready=True, server={**running(ready=True), "containerID": "other"})
    assert current((again,), reports) == {}


def test_what_changes_all_the_time_is_no_news() -> None:
    calm = status()
    busy = ReplicaStatus(
        ready=True,
        incarnation="i",
        adapters_hash=HASH,
        load=Load(),
        sessions=3,
        kept_streams=4,
        operations=("loading",),
    )
    assert steady(busy) == steady(calm) == calm
    assert steady(status("other")) != steady(calm)


UNASKED: dict[str, tuple[PodView, bool, bool]] = {
    "a ready replica without a report": (READY, False, True),
    "a ready replica that has said something": (READY, True, False),
    "a replica that starts is no sign of a new operator": (STARTING, False, False),
    "a replica that leaves is of no interest": (
        pod(is_ready=True, is_leaving=True),
        False,
        False,
    ),
}


@pytest.mark.parametrize(("found", "has_report", "expected"), UNASKED.values(), ids=UNASKED.keys())
def test_unasked(found: PodView, has_report: bool, expected: bool) -> None:
    reports = {found.name: answered(found, None)} if has_report else {}
    assert has_unasked((found,), reports) == expected
