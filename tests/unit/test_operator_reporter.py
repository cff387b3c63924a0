"""Replicas are asked as seldom as can be, and at once when there may be news."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.kube_objects import pod, running, waiting
from tests.virtual_time import now, run

from sampler_api.fleet import AdapterState, ReplicaStatus
from sampler_operator.errors import Unreachable
from sampler_operator.names import Key
from sampler_operator.observed import PodView
from sampler_operator.reporter import Reporter

KEY, OTHER = Key("rl", "fleet"), Key("rl", "other")
HASH = "0123"


def view(name: str = "p1", *, ready: bool = True, life: str = "c1") -> PodView:
    server = {**running(started=True, ready=ready), "containerID": life}
    return pod(name, is_ready=ready, server=server)


def status(
    adapters_hash: str = HASH, *, ready: bool = True, loading: bool = False
) -> ReplicaStatus:
    states = (AdapterState("one", "loading"),) if loading else ()
    return ReplicaStatus(ready, "i", adapters_hash=adapters_hash, declared=states)


class Fleet:
    """Replicas whose answers are set, and the reporter that asks them."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.answers: dict[str, ReplicaStatus] = {}
        self.seconds = seconds
        self.asked: list[tuple[float, str]] = []
        self.waiting = 0
        self.most = 0
        self.queued: list[Key] = []
        self.reporter = Reporter(self, self.queued.append)

    async def status(self, pod: PodView) -> ReplicaStatus:
        self.asked.append((now(), pod.name))
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.waiting -= 1
        if pod.name not in self.answers:
            raise Unreachable(f"{pod.name} does not answer")
        return self.answers[pod.name]

    def expect(self, *pods: PodView, adapters_hash: str = HASH, key: Key = KEY) -> None:
        self.reporter.expect(key, pods, adapters_hash)

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.asked]


def play(main: Coroutine[Any, Any, None], fleet: Fleet) -> None:
    async def whole() -> None:
        await main
        await fleet.reporter.close()

    run(whole())


HOUR = 3600


def test_a_replica_that_has_said_all_is_never_asked_again() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status()

    async def main() -> None:
        for _ in range(10):
            fleet.expect(view())
            await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0]
    assert fleet.queued == [KEY]


def test_a_replica_that_does_not_answer_is_asked_less_and_less() -> None:
    fleet = Fleet()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(40)

    play(main(), fleet)
    assert fleet.times == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 25.5, 35.5]
    assert fleet.queued == [KEY], "the same answer is no news"


def test_passes_in_between_do_not_hurry_it() -> None:
    fleet = Fleet()

    async def main() -> None:
        for _ in range(40):
            fleet.expect(view())
            await asyncio.sleep(0.1)

    play(main(), fleet)
    assert fleet.times == [0, 0.5, 1.5, 3.5]


def test_a_replica_that_loads_is_asked_until_it_has_loaded() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status(loading=True)

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(2)
        fleet.answers["p1"] = status()
        await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0, 0.5, 1.5, 3.5]
    assert len(fleet.queued) == 2


def test_what_was_said_is_kept_and_told_as_news() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status()

    async def main() -> None:
        before = fleet.reporter.stamp(KEY)
        fleet.expect(view(), view("p2"))
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        reports = fleet.reporter.reports(KEY, (view(), view("p2")))
        assert reports["p1"].status == status()
        assert reports["p2"].status is None
        assert reports["p2"].error == "p2 does not answer"
        assert fleet.reporter.stamp(KEY) != before

    play(main(), fleet)
    assert fleet.queued == [KEY, KEY]


# News of pods


def test_a_pod_that_becomes_ready_is_asked_at_once() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status(ready=False)

    async def main() -> None:
        fleet.expect(view(ready=False))
        await asyncio.sleep(10)  # asked at 7.5, due at 15.5
        fleet.answers["p1"] = status()
        fleet.expect(view())
        await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0, 0.5, 1.5, 3.5, 7.5, 10]


def test_a_pod_that_is_no_longer_ready_is_asked_why() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(HOUR)
        fleet.expect(view(ready=False))
        await asyncio.sleep(1)

    play(main(), fleet)
    assert fleet.times == [0, HOUR, HOUR + 0.5]


def test_a_server_that_started_again_is_asked_anew_and_its_former_word_is_void() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(HOUR)
        assert fleet.reporter.reports(KEY, (view(life="c2"),)) == {}
        fleet.expect(view(life="c2"))
        await asyncio.sleep(HOUR)
        assert fleet.reporter.reports(KEY, (view(life="c2"),)) != {}

    play(main(), fleet)
    assert fleet.times == [0, HOUR]
    assert fleet.queued == [KEY, KEY]


def test_a_changed_declaration_is_asked_for_at_once_and_then_less_and_less() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(100)
        fleet.expect(view(), adapters_hash="new")
        await asyncio.sleep(5)
        fleet.answers["p1"] = status("new")
        await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0, 100, 100.5, 101.5, 103.5, 107.5]


def test_news_start_the_delays_anew() -> None:
    fleet = Fleet()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(10)
        fleet.expect(view(), adapters_hash="new")
        await asyncio.sleep(2)

    play(main(), fleet)
    assert fleet.times == [0, 0.5, 1.5, 3.5, 7.5, 10, 10.5, 11.5]


def test_news_while_it_is_being_asked_are_not_lost() -> None:
    fleet = Fleet(seconds=1)
    fleet.answers["p1"] = status()

    async def main() -> None:
        fleet.expect(view(ready=False))
        await asyncio.sleep(0.5)
        fleet.expect(view())
        await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0, 1]


GONE: dict[str, tuple[PodView, ...]] = {
    "is gone": (),
    "leaves": (pod("p1", is_ready=True, is_leaving=True),),
    "waits for its next start": (pod("p1", server=waiting("CrashLoopBackOff")),),
}


@pytest.mark.parametrize("pods", GONE.values(), ids=GONE.keys())
def test_nobody_asks_a_pod_that(pods: tuple[PodView, ...]) -> None:
    fleet = Fleet()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(1)
        fleet.expect(*pods)
        await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0, 0.5]


# Many


def test_each_replica_is_asked_on_its_own() -> None:
    fleet = Fleet()
    fleet.answers["p1"] = status()

    async def main() -> None:
        fleet.expect(view("p1"), view("p2"))
        await asyncio.sleep(1)

    play(main(), fleet)
    assert fleet.asked == [(0, "p1"), (0, "p2"), (0.5, "p2")]


def test_no_more_than_32_are_asked_at_once() -> None:
    fleet = Fleet(seconds=1)
    pods = [view(f"p{n}") for n in range(100)]
    fleet.answers = {pod.name: status() for pod in pods}

    async def main() -> None:
        fleet.expect(*pods)
        await asyncio.sleep(10)

    play(main(), fleet)
    assert fleet.most == 32
    assert len(fleet.asked) == 100


def test_a_fleet_that_is_gone_is_forgotten_and_no_other() -> None:
    fleet = Fleet()

    async def main() -> None:
        fleet.expect(view("p1"))
        fleet.expect(view("p2"), key=OTHER)
        await asyncio.sleep(0.1)
        fleet.reporter.forget(KEY)
        assert fleet.reporter.reports(KEY, (view("p1"),)) == {}
        await asyncio.sleep(1)
        assert fleet.reporter.reports(OTHER, (view("p2"),)) != {}

    play(main(), fleet)
    assert fleet.asked == [(0, "p1"), (0, "p2"), (0.5, "p2")]


def test_what_is_forgotten_while_it_is_asked_says_nothing_more() -> None:
    fleet = Fleet(seconds=1)
    fleet.answers["p1"] = status()

    async def main() -> None:
        fleet.expect(view())
        await asyncio.sleep(0.5)
        fleet.reporter.forget(KEY)
        await asyncio.sleep(10)
        assert fleet.reporter.reports(KEY, (view(),)) == {}

    play(main(), fleet)
    assert fleet.queued == []


def test_after_its_end_nobody_is_asked() -> None:
    fleet = Fleet(seconds=1)

    async def main() -> None:
        fleet.expect(view("p1"), view("p2"))
        await asyncio.sleep(0.5)
        await fleet.reporter.close()
        assert fleet.waiting == 0
        await asyncio.sleep(HOUR)

    play(main(), fleet)
    assert fleet.times == [0, 0]
