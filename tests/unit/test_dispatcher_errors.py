"""The client's state machine: work that replicas answer with errors."""

from collections.abc import Sequence

import pytest
from tests.dispatcher_world import World, outputs_of, segments_of, tokens_of
from tests.fake_replica import FakeReplica

from sampler_api.errors import (
    AdapterMissing,
    BaseMismatch,
    Busy,
    EngineDead,
    EngineFailed,
    InvalidRequest,
    PoisonRequest,
    ProtocolError,
    SamplerError,
)
from sampler_api.frames import ERROR, HANDED_OVER, LENGTH, RUNNING
from sampler_core.groups import Group


def test_an_error_that_no_retry_helps_ends_the_child_alone() -> None:
    world = World("a")
    (group,) = world.submit(2)
    a = world.replicas["a"]
    a.take()
    a.end(0, error=InvalidRequest("prompt: too long", "prompt"))
    a.flush()
    assert group.children[0].flag == ERROR
    assert isinstance(group.children[0].error, InvalidRequest)
    assert group.children[0].error.field == "prompt"
    assert world.done == []
    a.finish_all()
    assert world.done == [group]
    assert tokens_of(group, 1) == [5]


@pytest.mark.parametrize("error", [EngineFailed("x"), BaseMismatch("x"), AdapterMissing("x")])
def test_after_an_error_that_a_retry_helps_another_replica_is_asked(error: SamplerError) -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    a.end(0, error=error, tokens=[4])
    a.flush()
    assert a.take().asked == {}
    assert outputs_of(b.take().asked) == [(1, (4,))]
    assert segments_of(group) == [(a.replica.name, 0, 1, error.code)]


@pytest.mark.rule("S12.9", only=("remote",))
def test_busy_is_no_reason_to_avoid_a_replica() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.end(0, error=Busy("later"))
    a.flush()
    assert outputs_of(a.take().asked) == [(1, ())]
    assert group.children[0].failures == 0


def refuse_all(replica: FakeReplica) -> int:
    """Answer everything that is asked with a dead engine, until nothing is; how often it was."""
    rounds = 0
    while replica.take().asked:
        rounds += 1
        assert rounds < 100, "asked without a pause"
        for handle in list(replica.running):
            replica.end(handle, error=EngineDead("step failed"))
        replica.flush()
    return rounds


@pytest.mark.rule("S12.9", only=("remote",))
def test_the_only_replica_with_a_dead_engine_is_asked_ever_more_rarely() -> None:
    world = World("a")
    groups = world.submit(1, 2)
    a = world.replicas["a"]
    asked = [refuse_all(a)]
    for _ in range(64):
        world.tick(1)
        asked.append(refuse_all(a))
    times = [tick for tick, rounds in enumerate(asked) if rounds]
    assert times == [0, 1, 3, 7, 15, 31, 47, 63]
    assert set(asked) == {0, 1}
    assert [child.flag for group in groups for child in group.children] == [RUNNING] * 3
    world.tick(16)
    a.take()
    a.finish_all()
    assert world.done == groups


def test_after_a_success_the_next_rest_is_short_again() -> None:
    world = World("a")
    a = world.replicas["a"]
    world.submit(1)
    for ticks in (1, 2, 4):
        refuse_all(a)
        world.tick(ticks)
    a.take()
    a.finish_all()
    world.submit(1)
    assert refuse_all(a) == 1
    world.tick(1)
    assert len(a.take().asked) == 1


def test_a_dead_engine_sends_streams_elsewhere_at_once_and_gets_nothing_new() -> None:
    world = World("a", "b", sequences=4)
    (group,) = world.submit(1)
    dead, alive = world.home_of(group)
    dead.take()
    dead.end(0, error=EngineDead("step failed"), tokens=[4])
    dead.flush()
    assert outputs_of(alive.take().asked) == [(1, (4,))]
    world.submit(*[1] * 8)
    assert dead.take().asked == {}
    assert len(alive.take().asked) == 3
    assert world.dispatcher.demand()[0] == 5


def test_a_new_process_in_place_of_a_dead_engine_is_asked_at_once() -> None:
    world = World("a")
    world.submit(1)
    a = world.replicas["a"]
    for ticks in (1, 2, 4):
        refuse_all(a)
        world.tick(ticks)
    refuse_all(a)
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    assert len(world.start("a", life=2).take().asked) == 1


def test_a_suspect_waits_for_a_dead_engine_like_everybody() -> None:
    world = World("a")
    (suspect,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    for _ in range(2):
        fail(a, suspect.children[0].handle)
    assert refuse_all(a) == 1
    world.tick(1)
    assert len(a.take().asked) == 1


def test_an_adapter_that_no_replica_has_is_the_callers_error() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    for replica in world.home_of(group):
        replica.take()
        replica.end(0, error=AdapterMissing("no such directory"))
        replica.flush()
    assert world.done == [group]
    assert isinstance(group.children[0].error, AdapterMissing)
    assert world.dispatcher.demand() == (0, 0)


def fail(replica: FakeReplica, handle: int) -> None:
    replica.end(handle, error=EngineFailed("cuda"))
    replica.flush()


@pytest.mark.rule("S12.9", only=("remote",))
def test_what_three_engines_fail_on_is_poison() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    for _ in range(3):
        home, _ = world.home_of(group)
        home.take()
        fail(home, group.children[0].handle)
    assert world.done == [group]
    assert isinstance(group.children[0].error, PoisonRequest)
    assert "cuda" in str(group.children[0].error)
    assert all(r.replica.is_usable for r in world.replicas.values())


@pytest.mark.rule("S12.9", only=("remote",))
def test_the_last_try_is_alone_on_a_replica_that_takes_nothing_else() -> None:
    world = World("a")
    a = world.replicas["a"]
    suspect, healthy, begun = world.submit(1, 1, 1)
    a.take()
    for _ in range(2):
        fail(a, suspect.children[0].handle)
        a.take()
    assert suspect.children[0].handle == -1
    (late,) = world.submit(1)
    a.give(begun.children[0].handle, [5])
    a.flush()
    assert a.take().asked == {}
    a.end(healthy.children[0].handle, LENGTH, [5])
    a.flush()
    said = a.take()
    assert [x.seq for x in said.asked.values()] == [suspect.seq]
    assert said.frame.submits[0].is_interactive
    a.give(suspect.children[0].handle, [5])
    a.flush()
    assert [x.seq for x in a.take().asked.values()] == [late.seq]
    a.finish_all()
    assert suspect.children[0].flag == LENGTH


def test_a_suspect_reserves_one_replica_and_the_others_go_on() -> None:
    world = World("a", "b", sequences=4)
    (suspect,) = world.submit(1)
    for _ in range(2):
        home, _ = world.home_of(suspect)
        home.take()
        fail(home, suspect.children[0].handle)
    world.submit(*[1] * 6)
    home, other = world.home_of(suspect)
    assert [x.seq for x in home.take().asked.values()] == [suspect.seq]
    assert len(other.take().asked) == 4
    fail(home, suspect.children[0].handle)
    assert isinstance(suspect.children[0].error, PoisonRequest)
    assert len(home.take().asked) == 2


def test_a_cancelled_suspect_frees_its_replica() -> None:
    world = World("a")
    a = world.replicas["a"]
    suspect, healthy = world.submit(1, 1)
    a.take()
    for _ in range(2):
        fail(a, suspect.children[0].handle)
        a.take()
    world.dispatcher.cancel([suspect])
    world.submit(1)
    assert len(a.take().asked) == 1
    assert healthy.children[0].flag == RUNNING


def die(world: World, group: Group, life: int, tokens: Sequence[int] = ()) -> None:
    home, _ = world.home_of(group)
    home.take()
    if tokens:
        home.give(group.children[0].handle, tokens)
        home.flush()
    name = home.replica.name
    world.dispatcher.move(home.replica, home.disconnect(), is_dead=True)
    world.replicas[name] = world.start(name, life)


@pytest.mark.rule("S12.9", only=("remote",))
def test_what_replicas_die_of_at_once_is_poison_after_a_try_alone() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    for life in range(2, 6):
        assert world.done == []
        die(world, group, life)
    assert isinstance(group.children[0].error, PoisonRequest)


@pytest.mark.rule("S12.9", only=("remote",))
@pytest.mark.parametrize("kind", ["a token in between", "a death long after the start"])
def test_deaths_are_no_poison_with(kind: str) -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    for life in range(2, 12):
        if kind == "a token in between":
            die(world, group, life, [1])
        else:
            world.tick(11)
            die(world, group, life)
    assert group.children[0].flag == RUNNING


@pytest.mark.rule("S12.9", only=("remote",))
def test_lost_connections_drains_and_timeouts_are_no_poison() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    for _ in range(10):
        home, _ = world.home_of(group)
        home.take()
        world.dispatcher.move(home.replica, home.disconnect(), is_dead=False)
        home.connect()
        home, _ = world.home_of(group)
        home.take()
        home.end(group.children[0].handle, HANDED_OVER)
        home.flush()
    child = group.children[0]
    assert (child.flag, child.failures, child.deaths) == (RUNNING, 0, 0)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40], ids=["empty", "garbage"])
def test_a_frame_that_cannot_be_read_is_a_protocol_error(data: bytes) -> None:
    world = World("a")
    with pytest.raises(ProtocolError):
        world.dispatcher.frame(world.replicas["a"].replica, data)
