"""The client's state machine: how work starts, is cancelled, waits and ends, without a network."""

import pytest
from tests.dispatcher_world import OTHER_BASE, World, outputs_of, segments_of, tokens_of
from tests.fake_replica import BASE, EOS, FakeReplica, hello_of, make_group

from sampler_api.errors import (
    NoReplica,
    PayloadTooLarge,
    RevisionGone,
    SamplerClosed,
)
from sampler_api.frames import ABORT, LENGTH, STOP, CancelId, Grant
from sampler_api.revisions import Revision
from sampler_core.calls import respond
from sampler_core.view import InputView


def test_a_group_runs_and_ends() -> None:
    world = World("a")
    (group,) = world.submit(2)
    a = world.replicas["a"]
    said = a.take()
    assert [(s.seq, s.child, s.attempt) for s in said.asked.values()] == [(0, 0, 0), (0, 1, 0)]
    a.give(0, [4, 5])
    a.flush()
    assert world.done == []
    a.end(0, LENGTH, [6])
    a.end(1, STOP, [7, EOS], matched=None)
    a.flush()
    assert world.done == [group]
    assert (tokens_of(group, 0), tokens_of(group, 1)) == ([4, 5, 6], [7, EOS])
    assert [child.flag for child in group.children] == [LENGTH, STOP]
    assert segments_of(group) == [("a", 0, 3, "finished")]
    assert a.take().acks == [0, 1]


def test_what_matched_comes_with_the_end() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.end(0, STOP, [4], matched="END")
    a.flush()
    assert group.children[0].matched == "END"


@pytest.mark.rule("S12.6", only=("remote",))
def test_no_more_is_sent_than_credit_allows() -> None:
    world = World("a", sequences=3)
    world.submit(*[1] * 10)
    a = world.replicas["a"]
    assert len(a.take().asked) == 3
    a.finish_all()
    assert len(a.take().asked) == 3
    assert len(world.done) == 3


def test_work_waits_while_nobody_is_connected() -> None:
    world = World()
    world.submit(1, 1)
    assert world.dispatcher.demand() == (2, 2 * (3 + 16))
    a = world.start("a")
    assert len(a.take().asked) == 2
    assert world.dispatcher.demand() == (0, 0)


@pytest.mark.rule("S12.6", only=("remote",))
def test_a_group_larger_than_the_grant_goes_to_an_idle_session_as_one() -> None:
    world = World("a", sequences=8)
    world.submit(64)
    assert len(world.replicas["a"].take().asked) == 64


@pytest.mark.rule("S12.6", only=("remote",))
def test_a_large_group_is_not_overtaken_for_ever() -> None:
    world = World("a", sequences=8)
    world.submit(4, 64, 1)
    a = world.replicas["a"]
    assert len(a.take().asked) == 4
    a.finish_all()
    assert len(a.take().asked) == 64
    a.finish_all()
    assert len(a.take().asked) == 1
    a.finish_all()
    assert len(world.done) == 3


def test_first_come_first_served() -> None:
    world = World("a", sequences=2)
    world.submit(*[1] * 6)
    a = world.replicas["a"]
    order: list[int] = []
    while len(order) < 6:
        order += [asked.seq for asked in a.take().asked.values()]
        a.finish_all()
    assert order == list(range(6))


def test_a_higher_grant_lets_more_go() -> None:
    world = World("a", sequences=1)
    world.submit(*[1] * 6)
    a = world.replicas["a"]
    assert len(a.take().asked) == 1
    a.flush(grant=Grant(2, 4, 1_000_000))
    assert len(a.take().asked) == 3


def test_no_replica_idles_while_work_waits() -> None:
    world = World("a", "b", "c", sequences=4)
    world.submit(*[1] * 20)
    assert [len(r.take().asked) for r in world.replicas.values()] == [4, 4, 4]
    world.replicas["b"].finish_all()
    assert [len(r.take().asked) for r in world.replicas.values()] == [0, 4, 0]


def test_demand_is_a_replicas_share() -> None:
    world = World("a", "b", sequences=1)
    world.submit(*[1] * 9)
    assert world.dispatcher.demand() == (4, 4 * (3 + 16))


@pytest.mark.rule("S12.7", only=("remote",))
def test_a_draining_replica_gets_nothing_new() -> None:
    world = World("a", "b")
    a, b = world.replicas["a"], world.replicas["b"]
    a.flush(draining=True)
    world.submit(*[1] * 8)
    assert (len(a.take().asked), len(b.take().asked)) == (0, 8)


def test_a_group_of_another_base_waits_and_holds_nobody_up() -> None:
    world = World("a")
    world.submit(1, base=OTHER_BASE)
    world.submit(1)
    a = world.replicas["a"]
    assert [asked.seq for asked in a.take().asked.values()] == [1]
    b = world.start("b", base=OTHER_BASE)
    assert [asked.seq for asked in b.take().asked.values()] == [0]


def test_a_prompt_that_no_frame_holds_is_refused_alone() -> None:
    world = World()
    small = FakeReplica(world.dispatcher, hello_of("a", max_frame_bytes=800))
    small.connect()
    large = make_group(2, prompt=range(101), done=world.done)
    good = make_group(1, prompt=range(100), done=world.done)
    world.dispatcher.submit([large, good])
    assert world.done == [large]
    for child in large.children:
        assert isinstance(child.error, PayloadTooLarge)
        assert child.error.field == "input_ids"
        assert "input_ids: 101 tokens" in str(child.error)
        assert "at most 100" in str(child.error)
    assert [asked.seq for asked in small.take().asked.values()] == [good.seq]
    assert world.dispatcher.demand() == (0, 0)


def test_siblings_with_long_outputs_continue_in_several_frames() -> None:
    world = World()
    a = FakeReplica(world.dispatcher, hello_of("a", "a-1"))
    a.connect()
    group = make_group(4, done=world.done, max_tokens=90)
    world.dispatcher.submit([group])
    a.take()
    for handle in range(4):
        a.give(handle, [1] * 60)
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=False)
    b = FakeReplica(world.dispatcher, hello_of("b", "b-1", max_frame_bytes=800))
    b.connect()
    while world.done == []:
        assert len(b.take().asked) == 1
        b.finish_all([2])
    assert [tokens_of(group, k) for k in range(4)] == [[1] * 60 + [2]] * 4


def test_cancelling_frees_credit_and_keeps_what_has_arrived() -> None:
    world = World("a", sequences=2)
    first, second = world.submit(2, 1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [4, 5])
    a.flush()
    world.dispatcher.cancel([first])
    assert world.done == [first]
    assert tokens_of(first) == [4, 5]
    assert segments_of(first) == [("a", 0, 2, "cancelled")]
    said = a.take()
    assert said.frame.cancels == [0, 1]
    assert [asked.seq for asked in said.asked.values()] == [second.seq]


@pytest.mark.rule("S12.2", only=("remote",))
def test_deltas_of_a_cancelled_stream_are_dropped() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    world.dispatcher.cancel([group])
    a.give(0, [4, 5])
    a.flush()
    a.end(0, LENGTH, [6])
    a.flush()
    assert tokens_of(group) == []
    assert group.children[0].flag == ABORT
    assert a.take().acks == []


def test_the_handle_of_a_cancelled_stream_is_used_again_after_its_last_word() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    world.dispatcher.cancel([group])
    world.submit(1)
    assert list(a.take().asked) == [1]
    a.end(0, ABORT)
    a.flush()
    world.submit(1)
    assert list(a.take().asked) == [0]


def test_cancelled_work_that_waited_is_never_sent() -> None:
    world = World("a", sequences=1)
    groups = world.submit(1, 3, 1, 1)
    world.dispatcher.cancel(groups[1:3])
    assert world.done == groups[1:3]
    assert world.dispatcher.demand()[0] == 1
    a = world.replicas["a"]
    a.take()
    a.finish_all()
    assert [asked.seq for asked in a.take().asked.values()] == [3]
    assert world.dispatcher.demand() == (0, 0)


def test_many_cancelled_groups_leave_nothing_behind() -> None:
    world = World()
    groups = world.submit(*[1] * 3000)
    for group in groups[1:]:
        world.dispatcher.cancel([group])
    assert world.dispatcher.demand()[0] == 1
    assert len(world.dispatcher._waiting._backlog._items) < 2000
    assert [asked.seq for asked in world.start("a").take().asked.values()] == [0]


def test_cancelling_twice_does_nothing() -> None:
    world = World("a")
    (group,) = world.submit(1)
    world.dispatcher.cancel([group])
    world.dispatcher.cancel([group])
    assert world.done == [group]


def test_a_stream_that_was_cancelled_while_its_session_was_down_is_cancelled_there() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    lost = a.disconnect()
    world.dispatcher.cancel([group])
    a.connect(lost)
    said = a.take()
    assert (said.frame.joins, said.frame.cancel_ids) == ([], [CancelId(0, 0, 0)])


@pytest.mark.rule("S12.2", "S12.8", only=("remote",))
def test_a_stream_without_progress_moves_after_the_timeout() -> None:
    world = World("a", "b", progress_timeout=60)
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    a.give(0, [4])
    a.flush()
    world.tick(60)
    a.take()
    assert b.take().asked == {}
    world.tick(5)
    assert a.take().frame.cancels == [0]
    assert outputs_of(b.take().asked) == [(1, (4,))]
    a.give(0, [5, 6])
    a.flush()
    b.finish_all([7])
    assert tokens_of(group) == [4, 7]
    assert segments_of(group)[0] == (a.replica.name, 0, 1, "progress_timeout")


@pytest.mark.rule("S12.8", only=("remote",))
@pytest.mark.parametrize("sign", ["token", "beat"])
def test_a_sign_of_life_keeps_a_stream_where_it_is(sign: str) -> None:
    world = World("a", "b", progress_timeout=60)
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    for _ in range(5):
        world.tick(50)
        if sign == "token":
            a.give(0, [1])
        a.flush(beats=[0] if sign == "beat" else [])
    world.tick(50)
    assert (a.take().frame.cancels, b.take().asked) == ([], {})


@pytest.mark.rule("S12.8", only=("remote",))
def test_frames_without_progress_do_not_count_as_progress() -> None:
    world = World("a", "b", progress_timeout=60)
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    for _ in range(66):
        world.tick(1)
        a.flush()
    assert len(b.take().asked) == 1


@pytest.mark.rule("S12.8", only=("remote",))
def test_only_ticks_pass_time() -> None:
    """After a pause of the process one tick comes, however long the pause was."""
    world = World("a", "b", progress_timeout=5, silence_timeout=5)
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    assert world.tick(1) == []
    assert (a.take().frame.cancels, b.take().asked) == ([], {})


def test_a_silent_session_is_reported() -> None:
    world = World("a", "b", silence_timeout=5)
    for _ in range(6):
        world.replicas["b"].flush()
        silent = world.tick(1)
    assert silent == ["a"]


def test_timeouts_scale_with_the_tick() -> None:
    world = World("a", silence_timeout=0.25, tick=0.05)
    assert world.tick(5) == []
    assert world.tick(1) == ["a"]


@pytest.mark.rule("S10.18", only=("remote",))
def test_a_base_that_nobody_serves_any_more_is_gone_with_what_has_arrived() -> None:
    world = World("a", gone_timeout=60)
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [4])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    world.start("a", 2, base=OTHER_BASE)
    world.tick(60)
    assert world.done == []
    world.tick(3)
    assert world.done == [group]
    assert isinstance(group.children[0].error, RevisionGone)
    assert tokens_of(group) == [4]


@pytest.mark.rule("S10.18", only=("remote",))
def test_a_sequence_whose_base_is_gone_begins_anew_where_that_is_asked_for() -> None:
    world = World("a", gone_timeout=60, on_revision_gone="restart")
    (group,) = world.submit(3)
    a = world.replicas["a"]
    a.take()
    a.end(0, LENGTH, [4])
    a.give(1, [5, 6])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    other = world.start("a", 2, base=OTHER_BASE)
    world.tick(63)
    said = other.take()
    assert [ref.base for ref in said.frame.revisions] == [OTHER_BASE]
    assert [(s.child, s.output) for s in said.asked.values()] == [(1, ()), (2, ())]
    for handle in said.asked:
        other.end(handle, LENGTH, [7, 8])
    other.flush()
    assert world.done == [group]
    # What had ended keeps the base that it has.
    assert [tokens_of(group, child) for child in range(3)] == [[4], [7, 8], [7, 8]]
    bases = [[s.revision.base for s in c.segments if s.revision] for c in group.children]
    assert bases == [[BASE], [OTHER_BASE], [OTHER_BASE]]
    view = InputView({}, group.prompt_ids, None)
    sequences = respond(group, view, Revision(BASE)).sequences
    assert [s.revision.base for s in sequences if s.revision] == [BASE, OTHER_BASE, OTHER_BASE]


def test_without_any_replica_work_waits() -> None:
    world = World("a", gone_timeout=60)
    world.submit(1)
    a = world.replicas["a"]
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    world.tick(200)
    assert world.done == []
    assert len(world.start("b").take().asked) == 1


def test_a_base_that_comes_back_in_time_is_not_gone() -> None:
    world = World(gone_timeout=60)
    world.start("b", base=OTHER_BASE)
    world.submit(1)
    world.tick(50)
    a = world.start("a")
    world.tick(50)
    assert world.done == []
    assert len(a.take().asked) == 1


def test_closing_ends_everything() -> None:
    world = World("a", sequences=1)
    groups = world.submit(1, 2)
    world.dispatcher.close()
    assert world.done == groups
    errors = [child.error for group in groups for child in group.children]
    assert all(isinstance(error, SamplerClosed) for error in errors)


def test_what_is_submitted_after_the_end_ends_at_once() -> None:
    world = World("a")
    world.dispatcher.close()
    (group,) = world.submit(1)
    assert world.done == [group]
    assert isinstance(group.children[0].error, SamplerClosed)


def test_when_no_endpoint_ever_answers_everything_that_waits_fails() -> None:
    world = World()
    groups = world.submit(1, 2)
    world.dispatcher.fail_waiting(NoReplica("nobody there"))
    assert world.done == groups
    errors = [child.error for group in groups for child in group.children]
    assert all(isinstance(error, NoReplica) for error in errors)
    assert len({id(error) for error in errors}) == 3


def test_a_replica_is_woken_when_there_is_something_to_say() -> None:
    world = World("a")
    world.submit(1)
    a = world.replicas["a"]
    assert world.woken == ["a"]
    a.take()
    world.woken.clear()
    a.give(0, [1])
    a.flush()
    assert world.woken == []
    a.end(0)
    a.flush()
    assert world.woken == ["a"]
