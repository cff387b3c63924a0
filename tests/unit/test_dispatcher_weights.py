"""A replica that gets other base weights: what its clients credit to which, and what goes on."""

import pytest
from tests.dispatcher_world import OTHER_BASE, World, outputs_of, segments_of, tokens_of
from tests.fake_replica import BASE, FakeReplica, hello_of

from sampler_api.errors import RevisionGone
from sampler_api.frames import HANDED_OVER, RUNNING
from sampler_core.groups import ChildWork, Group


def replaced(
    world: World, name: str, lost: list[ChildWork], succeeds: tuple[str, ...] = (BASE,)
) -> FakeReplica:
    """The same process welcomes again, with another base."""
    hello = hello_of(name, f"{name}-1", base=OTHER_BASE, succeeds=succeeds)
    replica = FakeReplica(world.dispatcher, hello)
    replica.connect(lost)
    return replica


def bases_of(group: Group, child: int = 0) -> list[str]:
    found = []
    for segment in group.children[child].segments:
        assert segment.revision is not None
        found.append(segment.revision.base)
    return found


def test_what_was_handed_over_goes_on_under_the_base_that_succeeds_its_own() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [7, 8])
    a.end(0, HANDED_OVER)
    a.flush(draining=True)
    a = replaced(world, "a", a.disconnect())
    assert outputs_of(a.take().asked) == [(1, (7, 8))]
    a.finish_all([5])
    assert tokens_of(group) == [7, 8, 5]
    assert segments_of(group) == [("a", 0, 2, "drained"), ("a", 2, 3, "finished")]
    assert bases_of(group) == [BASE, OTHER_BASE]


def test_what_waits_for_its_turn_goes_on_there_too() -> None:
    world = World("a", sequences=1)
    first, second = world.submit(1, 1)
    a = world.replicas["a"]
    a.take()
    a.end(0, HANDED_OVER)
    a.flush(draining=True)
    a = replaced(world, "a", a.disconnect())
    for _ in range(2):
        a.take()
        a.finish_all()
    assert bases_of(first) == bases_of(second) == [OTHER_BASE]


def test_a_base_that_another_replica_still_serves_is_kept_to() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    home, other = world.home_of(group)
    home.take()
    home.give(0, [7])
    home.end(0, HANDED_OVER)
    home.flush(draining=True)
    again = replaced(world, home.replica.name, home.disconnect())
    assert outputs_of(other.take().asked) == [(1, (7,))]
    assert outputs_of(again.take().asked) == []
    other.finish_all([5])
    assert bases_of(group) == [BASE, BASE]


def test_a_base_that_succeeds_no_other_gets_nothing_of_it() -> None:
    world = World("a", gone_timeout=60)
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [7])
    a.end(0, HANDED_OVER)
    a.flush(draining=True)
    a = replaced(world, "a", a.disconnect(), succeeds=())
    world.tick(60)
    assert outputs_of(a.take().asked) == []
    world.tick(3)
    assert isinstance(group.children[0].error, RevisionGone)
    assert (tokens_of(group), bases_of(group)) == ([7], [BASE])


@pytest.mark.parametrize("policy", ["raise", "restart"])
def test_what_ended_before_the_change_and_is_heard_of_after_it_is_credited_to_its_own_base(
    policy: str,
) -> None:
    world = World("a", on_revision_gone=policy, gone_timeout=1)
    (group,) = world.submit(2)
    a = world.replicas["a"]
    a.take()
    a.give(1, [7])
    a.end(1, HANDED_OVER)
    a.flush(draining=True)
    # The last frame of the first child is lost with the session; it is joined on the new one.
    a = replaced(world, "a", a.disconnect())
    said = a.take()
    assert [(join.child, join.attempt) for join in said.frame.joins] == [(0, 0)]
    # Its sibling must not take the group to the new base while it is in flight.
    assert outputs_of(said.asked) == []
    world.tick(5)
    assert outputs_of(a.take().asked) == []
    a.end(said.frame.joins[0].handle, tokens=[3])
    a.flush()
    assert bases_of(group, 0) == [BASE]
    assert group.children[1].flag == RUNNING
    world.tick(1)
    assert outputs_of(a.take().asked) == [(1, (7,))]
    a.finish_all([5])
    assert bases_of(group, 1) == [BASE, OTHER_BASE]
    assert bases_of(group, 0) == [BASE]


def test_a_sequence_that_follows_keeps_its_adapter() -> None:
    world = World("a")
    (group,) = world.submit(1)
    ref = group.ref = type(group.ref)(BASE, "sha256:" + "a" * 64, "policy", "/a")
    a = world.replicas["a"]
    a.take()
    a.end(0, HANDED_OVER)
    a.flush(draining=True)
    a = replaced(world, "a", a.disconnect())
    (sent,) = a.take().frame.revisions
    assert (sent.base, sent.adapter, sent.name, sent.path) == (
        OTHER_BASE,
        ref.adapter,
        ref.name,
        ref.path,
    )


def test_a_call_that_has_not_heard_of_the_change_begins_under_the_heir() -> None:
    world = World("a")
    a = replaced(world, "a", world.replicas["a"].disconnect())
    groups = world.submit(1, 1)
    sent = a.take().frame
    # One entry of the table stands for both.
    assert [ref.base for ref in sent.revisions] == [OTHER_BASE]
    a.finish_all()
    assert [bases_of(group) for group in groups] == [[OTHER_BASE], [OTHER_BASE]]


def test_the_heir_is_that_of_the_replica_that_was_met_last() -> None:
    world = World("a", "b")
    newest = "sha256:" + "2" * 64
    replaced(world, "a", world.replicas["a"].disconnect())
    hello = hello_of("b", "b-1", base=newest, succeeds=(BASE, OTHER_BASE))
    world.replicas["b"].disconnect()
    FakeReplica(world.dispatcher, hello).connect()
    (group,) = world.submit(1)
    assert group.ref.base == newest
