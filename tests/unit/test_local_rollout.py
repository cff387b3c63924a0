"""What a Deployment on one machine does next."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler_operator.local.rollout import PodState, Step, Wanted, next_step
from sampler_operator.local.rollout_status import Progress, status_of


def pods(words: str) -> list[PodState]:
    """Pods by a letter of their template and a mark: + serves, - does not, ! leaves."""
    return [
        PodState(
            name=f"{word}{number}",
            template=word[0],
            number=number,
            is_ready=word[1] == "+",
            is_available=word[1] == "+",
            is_leaving=word[1] == "!",
        )
        for number, word in enumerate(words.split())
    ]


STEPS = [
    ("a new fleet starts all its pods", Wanted(3, "b"), "", Step("b", 3)),
    ("nothing is to be done for a fleet that is whole", Wanted(2, "b"), "b+ b+", Step("b", 0)),
    ("more replicas start more pods", Wanted(3, "b"), "b+", Step("b", 2)),
    ("fewer replicas let the youngest leave", Wanted(1, "b"), "b+ b+ b+", ("b+2", "b+1")),
    ("one that does not serve leaves before those that do", Wanted(2, "b"), "b- b+ b+", ("b-0",)),
    ("pods that leave count for nothing", Wanted(2, "b"), "b! b+", Step("b", 1)),
    ("a rollout without surge lets an old pod leave first", Wanted(2, "b"), "a+ a+", ("a+1",)),
    ("then a new one starts at once", Wanted(2, "b"), "a+ a!", Step("b", 1)),
    ("and it is waited for", Wanted(2, "b"), "a+ a! b-", ()),
    ("when it serves, the next old pod leaves", Wanted(2, "b"), "a+ b+", ("a+0",)),
    ("old pods that do not serve are replaced at once", Wanted(2, "b"), "a+ a-", ("a-1",)),
    ("old pods that never served all leave", Wanted(2, "b", 0, 2), "a- a-", ("a-1", "a-0")),
    ("a broken new pod costs no more old ones", Wanted(3, "b"), "a+ a+ b-", ()),
    ("with surge a new pod starts before an old one leaves", Wanted(2, "b", 1, 0), "a+ a+", "b1"),
    ("and nothing leaves before it serves", Wanted(2, "b", 1, 0), "a+ a+ b-", ()),
    ("but one leaves then", Wanted(2, "b", 1, 0), "a+ a+ b+", ("a+1",)),
    ("a second change meets pods of three templates", Wanted(2, "c"), "a+ b-", ("b-1",)),
    ("replicas 0 let all leave", Wanted(0, "b", 0, 0), "a+ a+", ("a+1", "a+0")),
    (
        "Recreate lets all old ones leave",
        Wanted(2, "b", is_recreated=True),
        "a+ a+",
        ("a+0", "a+1"),
    ),
    ("Recreate waits for the last of them", Wanted(2, "b", is_recreated=True), "a! a!", ()),
    ("Recreate starts when they are gone", Wanted(2, "b", is_recreated=True), "", Step("b", 2)),
    ("paused from the start, nothing starts", Wanted(2, "b", is_paused=True), "", ()),
    ("paused, no change is rolled out", Wanted(2, "b", is_paused=True), "a+ a+", ()),
    ("paused, what runs is scaled up", Wanted(3, "b", is_paused=True), "a+ a+", Step("a", 1)),
    ("paused, what runs is scaled down", Wanted(1, "b", is_paused=True), "a+ a+", ("a+1",)),
    (
        "paused with no replicas and a change, what was rolled out last comes back",
        Wanted(2, "c", is_paused=True, released=("a", "b")),
        "",
        Step("b", 2),
    ),
    (
        "paused with no replicas and without a change, replicas start",
        Wanted(2, "a", is_paused=True, released=("a", "b")),
        "",
        Step("a", 2),
    ),
    (
        "paused, Recreate does not wait for pods that leave",
        Wanted(2, "b", is_recreated=True, is_paused=True, released=("a", "b")),
        "a! b+",
        Step("b", 1),
    ),
    (
        "paused amid a rollout, the surge stays",
        Wanted(2, "b", 1, 0, is_paused=True, released=("a", "b")),
        "a+ a+ b-",
        (),
    ),
    (
        "paused amid a rollout, what is missing is of the template that has most",
        Wanted(3, "b", is_paused=True, released=("a", "b")),
        "a+ b-",
        Step("a", 1),
    ),
    (
        "paused when all new pods serve, old ones leave",
        Wanted(2, "b", 1, 0, is_paused=True, released=("a", "b")),
        "a+ b+ b+",
        ("a+0",),
    ),
]


@pytest.mark.parametrize(
    ("wanted", "words", "expected"), [case[1:] for case in STEPS], ids=[case[0] for case in STEPS]
)
def test_next_step(wanted: Wanted, words: str, expected: Step | tuple[str, ...] | str) -> None:
    if isinstance(expected, str):
        expected = Step(expected[0], int(expected[1:]))
    elif isinstance(expected, tuple):
        expected = Step(leaving=expected)
    step = next_step(wanted, pods(words))
    assert (step.count, step.leaving) == (expected.count, expected.leaving)
    assert not step.count or step.template == expected.template


@given(
    replicas=st.integers(1, 6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_a_rollout_ends_and_keeps_its_bounds_on_the_way(
    replicas: int, surge: int, unavailable: int, order: Random
) -> None:
    spec = {
        "replicas": replicas,
        "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
    }
    wanted = Wanted.of(spec, "b")
    now = pods(" ".join(["a+"] * replicas))
    made = replicas
    for _ in range(200):
        step = next_step(wanted, now)
        leaving = set(step.leaving)
        now = [replace(p, is_leaving=p.is_leaving or p.name in leaving) for p in now]
        for _ in range(step.count):
            now.append(PodState(f"b{made}", "b", made))
            made += 1
        active = [p for p in now if not p.is_leaving]
        assert len(active) <= replicas + wanted.max_surge
        assert sum(p.is_available for p in active) >= replicas - wanted.max_unavailable
        if not step:
            waiting = [p for p in now if p.is_leaving or not p.is_available]
            if not waiting:
                break
            moved = order.choice(waiting)
            now.remove(moved)
            if not moved.is_leaving:
                now.append(replace(moved, is_ready=True, is_available=True))
    assert [p.template for p in now] == ["b"] * replicas
    assert made == 2 * replicas


AMOUNTS = [
    ("a share of surge is rounded up", 3, "25%", 0, (1, 0)),
    ("a share of unavailable ones is rounded down", 3, 0, "67%", (0, 2)),
    ("if both come to nothing, one may be missing", 3, "0%", "25%", (0, 1)),
    ("no more may be missing than there are", 1, 0, 3, (0, 1)),
]


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [case[1:] for case in AMOUNTS],
    ids=[case[0] for case in AMOUNTS],
)
def test_amounts(
    replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]
) -> None:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    wanted = Wanted.of({"replicas": replicas, "strategy": {"rollingUpdate": rolling}}, "b")
    assert (wanted.max_surge, wanted.max_unavailable) == expected


STATUSES = [
    ("a whole fleet is complete", Wanted(2, "b"), "b+ b+", "True NewReplicaSetAvailable"),
    ("old pods are no complete rollout", Wanted(2, "b"), "b+ a+", "True ReplicaSetUpdated"),
    (
        "a paused rollout is unknown",
        Wanted(2, "b", is_paused=True),
        "a+",
        "Unknown DeploymentPaused",
    ),
]


@pytest.mark.parametrize(
    ("wanted", "words", "expected"),
    [case[1:] for case in STATUSES],
    ids=[case[0] for case in STATUSES],
)
def test_how_a_rollout_goes(wanted: Wanted, words: str, expected: str) -> None:
    status = status_of({}, wanted, pods(words), 4, Progress(), 0.0)
    progressing = status["conditions"][1]
    assert f"{progressing['status']} {progressing['reason']}" == expected
    assert status["observedGeneration"] == 4


def test_a_rollout_that_stands_still_for_too_long_has_failed_until_it_moves() -> None:
    wanted, spec, progress = Wanted(2, "b"), {"progressDeadlineSeconds": 30}, Progress()

    def reason(words: str, now: float) -> str:
        progress.saw(wanted, pods(words), now)
        status = status_of(spec, wanted, pods(words), 1, progress, now)
        return str(status["conditions"][1]["reason"])

    assert reason("a+ b-", 100) == "ReplicaSetUpdated"
    assert reason("a+ b-", 129) == "ReplicaSetUpdated"
    assert reason("a+ b-", 130) == "ProgressDeadlineExceeded"
    assert reason("a+ b+", 131) == "ReplicaSetUpdated"
