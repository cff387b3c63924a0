"""What is told of a pod whose engines differ."""

from typing import Any

import pytest

from sampler_api.fleet import AdapterState, ReplicaStatus
from sampler_api.frames import Load, ModelCard
from sampler_server.pod_status import merged_metrics, merged_status

CARD = ModelCard("m", "sim", "sha256:b", None, 8, 64, (0,), ("raw",), 4)
OTHER = ModelCard("m", "sim", "sha256:c", None, 8, 64, (0,), ("raw",), 4)


def engine(**values: Any) -> ReplicaStatus:
    return ReplicaStatus(**{"ready": True, "incarnation": "i", "card": CARD, **values})


def merged(*engines: ReplicaStatus | None) -> ReplicaStatus:
    return merged_status(engines, "pod-0", "rl/policy/1", 7)


def test_a_pod_of_ready_engines_is_ready() -> None:
    status = merged(engine(load=Load(1, 2, 3, 4, 5, 6)), engine(load=Load(1, 1, 1, 1, 1, 1)))
    assert (status.ready, status.reason, status.base) == (True, "", "sha256:b")
    assert (status.replica, status.fleet, status.pid) == ("pod-0", "rl/policy/1", 7)
    assert status.load == Load(2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        pytest.param(None, "engine 1 does not answer", id="one that does not answer"),
        pytest.param(
            engine(ready=False, reason="the engine is loading", card=None),
            "engine 1: the engine is loading",
            id="one that loads",
        ),
        pytest.param(
            engine(card=OTHER),
            "engines serve different bases: sha256:b, sha256:c",
            id="one with another base",
        ),
    ],
)
def test_one_engine_keeps_the_pod_from_being_ready(
    second: ReplicaStatus | None, reason: str
) -> None:
    status = merged(engine(), second)
    assert (status.ready, status.reason, status.base) == (False, reason, None)


def test_a_pod_drains_when_an_engine_does() -> None:
    assert merged(engine(), engine(ready=False, draining=True, reason="draining")).draining


def test_a_restarted_engine_is_another_incarnation_of_the_pod() -> None:
    before = merged(engine(incarnation="a"), engine(incarnation="b")).incarnation
    assert merged(engine(incarnation="a"), engine(incarnation="b")).incarnation == before
    assert merged(engine(incarnation="a"), engine(incarnation="c")).incarnation != before


HELD = AdapterState("a", "held", "sha256:1")


@pytest.mark.parametrize(
    ("first", "second", "state", "message"),
    [
        pytest.param((HELD,), (HELD,), "held", "", id="held by all"),
        pytest.param((HELD,), (AdapterState("a", "loading"),), "loading", "", id="loading at one"),
        pytest.param((HELD,), (), "loading", "", id="one that has not heard of it"),
        pytest.param(
            (AdapterState("a", "failed", message="no"),),
            (AdapterState("a", "loading"),),
            "failed",
            "no",
            id="failed at one",
        ),
        pytest.param(
            (HELD,),
            (AdapterState("a", "held", "sha256:2"),),
            "failed",
            "engines of this pod hold different revisions: sha256:1, sha256:2",
            id="different revisions",
        ),
    ],
)
def test_an_adapter_is_as_bad_as_at_the_worst_engine(
    first: tuple[AdapterState, ...], second: tuple[AdapterState, ...], state: str, message: str
) -> None:
    (found,) = merged(engine(declared=first), engine(declared=second)).declared
    assert (found.state, found.message) == (state, message)


def test_a_pod_holds_what_all_its_engines_hold() -> None:
    both = (engine(held=("x", "y"), adapters_hash="h"), engine(held=("y", "z"), adapters_hash="h"))
    assert (merged(*both).held, merged(*both).adapters_hash) == (("y",), "h")
    assert merged(*both, None).held == ()
    assert merged(*both, None).adapters_hash not in ("h", "")
    assert merged(engine(adapters_hash=""), engine(adapters_hash="h")).adapters_hash not in (
        "h",
        "",
    )


TEXT = """# HELP sampler_ended_total Sequences ended
# TYPE sampler_ended_total counter
sampler_ended_total{reason="stop"} %s
# HELP sampler_slots Slots
# TYPE sampler_slots gauge
sampler_slots 8.0
"""


def test_metrics_of_all_engines_are_one_exposition_with_the_engine_as_a_label() -> None:
    text = merged_metrics([TEXT % "1.0", TEXT % "2.0", None, "# half"]).decode()
    assert text.splitlines() == [
        "# HELP sampler_ended_total Sequences ended",
        "# TYPE sampler_ended_total counter",
        'sampler_ended_total{engine="0",reason="stop"} 1.0',
        'sampler_ended_total{engine="1",reason="stop"} 2.0',
        "# HELP sampler_slots Slots",
        "# TYPE sampler_slots gauge",
        'sampler_slots{engine="0"} 8.0',
        'sampler_slots{engine="1"} 8.0',
    ]
