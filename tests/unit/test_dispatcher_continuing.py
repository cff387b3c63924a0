"""The client's state machine: what is kept and told of a sequence while it moves."""

import numpy as np
import pytest
from tests.dispatcher_world import OTHER_BASE, World, outputs_of, segments_of, tokens_of
from tests.fake_replica import EOS, FakeReplica, hello_of, make_group

from sampler_api.codec import encode_frame
from sampler_api.errors import ProtocolError
from sampler_api.frames import (
    ABORT,
    HANDED_OVER,
    RUNNING,
    STOP,
    Block,
    CancelId,
    PromptBlock,
    ServerFrame,
)
from sampler_api.results import SampledSequence, Segment
from sampler_core.groups import Group
from sampler_core.resuming import preload


def resumed(world: World, tokens: list[int], **segment: int) -> Group:
    """A group that goes on from ``tokens``, submitted."""
    group = make_group(1, done=world.done, max_tokens=16)
    segments = (Segment("x", None, 0, segment.get("end", len(tokens)), "cancelled"),)
    given = SampledSequence("abort", tokens, segments=segments)
    preload(group.children[0], given, vocab_size=1000)
    world.dispatcher.submit([group])
    return group


def test_what_is_cancelled_while_its_session_is_down_says_where_its_tokens_came_from() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [4, 5])
    a.flush()
    a.disconnect()
    world.dispatcher.cancel([group])
    assert (group.children[0].flag, tokens_of(group)) == (ABORT, [4, 5])
    assert segments_of(group) == [("a", 0, 2, "cancelled")]


def test_prompt_logprobs_that_have_arrived_stay_when_the_sequence_goes_on_elsewhere() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    home, other = world.home_of(group)
    (handle,) = home.take().asked
    scores = np.array([np.nan, -1, -2], np.float32)
    home.score(handle, scores)
    home.give(handle, [4])
    home.flush()
    world.dispatcher.move(home.replica, home.disconnect(), is_dead=True)
    assert outputs_of(other.take().asked) == [(1, (4,))]
    other.finish_all()
    assert world.done == [group]
    assert tokens_of(group) == [4, 5]
    assert group.prompt_scores is not None
    assert np.array_equal(group.prompt_scores.logprobs, scores, equal_nan=True)


def test_what_runs_at_the_end_of_the_client_says_where_its_tokens_came_from() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    a.give(0, [4, 5])
    a.flush()
    world.dispatcher.close()
    assert segments_of(group) == [("a", 0, 2, "cancelled")]


def test_an_end_that_the_caller_gave_and_the_replica_went_beyond_is_none() -> None:
    world = World("a", "b")
    group = resumed(world, [4, EOS, 5, 6])
    a, b = world.home_of(group)
    assert outputs_of(a.take().asked) == [(0, (4, EOS, 5, 6))]
    a.give(0, [7])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=False)
    assert group.children[0].flag == RUNNING
    assert outputs_of(b.take().asked) == [(1, (4, EOS, 5, 6, 7))]


def test_a_last_token_that_ends_it_ends_it_though_nobody_said_so() -> None:
    world = World("a", "b")
    (group,) = world.submit(1)
    a, _ = world.home_of(group)
    a.take()
    a.give(0, [4, EOS])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    assert (group.children[0].flag, tokens_of(group)) == (STOP, [4, EOS])


def test_a_replica_of_another_base_says_nothing_of_where_a_sequence_ends() -> None:
    world = World()
    short = hello_of("other", "other-1", base=OTHER_BASE, context_limit=8)
    FakeReplica(world.dispatcher, short).connect()
    a = world.start("a")
    (group,) = world.submit(1, max_tokens=None)
    a.take()
    a.give(0, list(range(10, 20)))
    a.flush()
    a.end(0, HANDED_OVER)
    a.flush()
    assert group.children[0].flag == RUNNING
    assert tokens_of(group) == list(range(10, 20))


def test_a_replica_that_only_ever_welcomes_does_not_keep_its_streams() -> None:
    world = World("a", "b", progress_timeout=60)
    (group,) = world.submit(1)
    a, b = world.home_of(group)
    a.take()
    for _ in range(14):
        lost = a.disconnect()
        world.tick(5)
        a.connect(lost)
        a.take()
    assert outputs_of(b.take().asked) == [(1, ())]


def test_a_sequence_that_begins_anew_keeps_what_its_caller_gave() -> None:
    world = World("a", gone_timeout=60, on_revision_gone="restart")
    group = resumed(world, [4, 5, 6])
    a = world.replicas["a"]
    a.take()
    a.give(0, [7])
    a.flush()
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    other = world.start("a", 2, base=OTHER_BASE)
    world.tick(63)
    assert outputs_of(other.take().asked) == [(2, (4, 5, 6))]
    assert segments_of(group) == [("x", 0, 3, "cancelled")]


def test_what_begins_anew_does_so_on_the_base_that_was_met_last() -> None:
    world = World("a", gone_timeout=60, on_revision_gone="restart")
    world.start("b", base=OTHER_BASE)
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    newest = "sha256:" + "2" * 64
    world.dispatcher.move(a.replica, a.disconnect(), is_dead=True)
    world.start("a", 2, base=newest)
    world.tick(63)
    assert group.ref.base == newest


def test_a_caller_may_give_fewer_tokens_than_came() -> None:
    world = World("a")
    group = resumed(world, [4, 5], end=10)
    assert segments_of(group) == [("x", 0, 2, "cancelled")]


def test_a_cancel_that_may_not_have_been_heard_is_said_again() -> None:
    world = World("a")
    (group,) = world.submit(1)
    a = world.replicas["a"]
    a.take()
    world.dispatcher.cancel([group])
    a.connect(a.disconnect())
    assert a.take().frame.cancel_ids == [CancelId(0, 0, 0)]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ServerFrame(blocks=[Block(2**31, 0, 0, 1, 1)]), id="in a block"),
        pytest.param(ServerFrame(prompts=[PromptBlock(0, 0, 2**62)]), id="of a prompt"),
    ],
)
def test_more_logprobs_than_there_are_tokens_in_the_world_are_no_frame(frame: ServerFrame) -> None:
    world = World("a")
    world.submit(1)
    a = world.replicas["a"]
    with pytest.raises(ProtocolError):
        world.dispatcher.frame(a.replica, encode_frame(frame))
