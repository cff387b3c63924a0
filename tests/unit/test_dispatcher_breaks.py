"""The client's state machine: what happens to work when its session or replica goes."""

import pytest
from tests.dispatcher_world import World, outputs_of, segments_of, tokens_of
from tests.fake_replica import EOS, FakeReplica

from sampler_api.errors import (
    UnknownRequest,
)
from sampler_api.frames import ABORT, HANDED_OVER, LENGTH, RUNNING, STOP, CancelId


@pytest.mark.rule("S12.1", only=("remote",))
def test_a_broken_session_is_joined_on_the_same_incarnation() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    a.give(0, [4, 5])
    a.flush()
    lost = a.disconnect()
    a.connect(lost)
    (join,) = a.take().frame.joins
    assert (join.seq, join.child, join.attempt, join.offset) == (0, 0, 0, 2)
    a.end(join.handle, LENGTH, [6])
    a.flush()
    assert tokens_of(group) == [4, 5, 6]
    assert segments_of(group) == [(a.replica.name, 0, 3, "finished")]
    assert b.take().asked == {}


@pytest.mark.rule("S12.1", only=("remote",))
def test_a_lost_stream_moves_with_its_tokens_as_the_next_attempt() -> None:
    world = World("a", "b")
    (group,) = world.submit(2)
    a, b = world.home_of(group)
    a.take()
    a.give(0, [4, 5])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=False)
    assert outputs_of(b.take().asked) == [(1, (4, 5)), (1, ())]
    b.give(0, [6])
    b.finish_all([7])
    assert [tokens_of(group, 0), tokens_of(group, 1)] == [[4, 5, 6, 7], [7]]
    assert segments_of(group, 0) == [
        (a.replica.name, 0, 2, "lost"),
        (b.replica.name, 2, 4, "finished"),
    ]
    assert segments_of(group, 1) == [(b.replica.name, 0, 1, "finished")]


@pytest.mark.rule("S12.2", only=("remote",))
def test_the_old_attempt_is_cancelled_when_its_replica_comes_back() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=False)
    b.take()
    again = FakeReplica(world.dispatcher, a.replica.hello)
    again.connect()
    assert again.take().frame.cancel_ids == [CancelId(0, 0, 0)]
    again.disconnect()
    again.connect()
    assert again.take().frame.cancel_ids == []


@pytest.mark.rule("S12.3", only=("remote",))
def test_another_incarnation_is_asked_to_cancel_nothing() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    a, _ = world.home_of(group)
    a.take()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    assert world.start(a.replica.name, life=2).take().frame.cancel_ids == []


def test_broken_streams_go_before_everything_that_has_not_begun() -> None:
    world = World("a", sequences=2)
    world.submit(1, 1, 1, 1)
    a = world.replicas["a"]
    a.take()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=False)
    b = world.start("b", sequences=3)
    asked = [(x.seq, x.attempt) for x in b.take().asked.values()]
    assert asked == [(0, 1), (1, 1), (2, 0)]


@pytest.mark.rule("S12.1", only=("remote",))
def test_a_join_that_is_unknown_there_moves_or_begins_anew() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [4])
    a.flush()
    a.connect(a.disconnect())
    (join,) = a.take().frame.joins
    a.end(join.handle, error=UnknownRequest("gone"))
    a.flush()
    assert outputs_of(a.take().asked) == [(1, (4,))]
    assert group.children[0].flag == RUNNING


@pytest.mark.rule("S7.4", only=("remote",))
def test_a_stream_whose_last_word_was_lost_is_complete() -> None:
    world = World("a", "b")
    (group,) = world.submit(1, max_tokens=None)
    a, b = world.home_of(group)
    a.take()
    a.give(0, [4, EOS])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    assert b.take().asked == {}
    assert world.done == [group]
    assert group.children[0].flag == STOP


@pytest.mark.rule("S12.7", only=("remote",))
@pytest.mark.parametrize("flag", [HANDED_OVER, ABORT], ids=["handed over", "aborted there"])
def test_a_stream_that_its_replica_lets_go_continues_elsewhere(flag: int) -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    a.flush(draining=True)
    a.end(0, flag, [4])
    a.flush()
    assert outputs_of(b.take().asked) == [(1, (4,))]
    b.finish_all([5])
    assert tokens_of(group) == [4, 5]
    ended = "drained" if flag == HANDED_OVER else "cancelled"
    assert segments_of(group)[0] == (a.replica.name, 0, 1, ended)


@pytest.mark.rule("S12.1", only=("remote",))
def test_a_stream_moves_any_number_of_times() -> None:
    world = World("a", "b")
    (group,) = world.submit(1, max_tokens=None)
    for life in range(2, 42):
        home, _ = world.home_of(group)
        home.take()
        (handle,) = home.running
        home.give(handle, [1])
        home.flush()
        name = home.replica.name
        world.dispatcher.move(home.replica, home.disconnect(), is_dead=True)
        world.replicas[name] = world.start(name, life)
    home, _ = world.home_of(group)
    home.take()
    home.finish_all([2])
    assert tokens_of(group) == [1] * 40 + [2]
    assert [s[1:3] for s in segments_of(group)[:3]] == [(0, 1), (1, 2), (2, 3)]


def test_an_endpoint_that_leaves_gets_nothing_more() -> None:
    world = World("a", "b")
    world.dispatcher.disconnected(world.replicas["a"].replica)
    world.dispatcher.forget("http://a")
    world.submit(*[1] * 4)
    assert len(world.replicas["b"].take().asked) == 4
