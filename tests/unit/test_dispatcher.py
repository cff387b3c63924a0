"""The client's state machine: every way in which work starts, moves and ends, without a network."""

from collections.abc import Sequence

import pytest
from tests.fake_replica import BASE, EOS, Asked, FakeReplica, hello_of, make_group

from sampler_api.errors import (
    AdapterMissing,
    BaseMismatch,
    Busy,
    EngineDead,
    EngineFailed,
    InvalidRequest,
    NoReplica,
    PayloadTooLarge,
    PoisonRequest,
    ProtocolError,
    RevisionGone,
    SamplerClosed,
    SamplerError,
    UnknownRequest,
)
from sampler_api.frames import ABORT, ERROR, HANDED_OVER, LENGTH, RUNNING, STOP, CancelId, Grant
from sampler_api.revisions import Revision
from sampler_client.dispatcher import Dispatcher
from sampler_client.settings import ClientSettings
from sampler_core.calls import respond
from sampler_core.groups import Group
from sampler_core.view import InputView

OTHER_BASE = "sha256:" + "1" * 64


class World:
    """A dispatcher, its replicas, and the groups that have ended."""

    def __init__(self, *names: str, sequences: int = 8, **settings: float | str) -> None:
        self.woken: list[str] = []
        self.dispatcher = Dispatcher(
            ClientSettings(**settings),  # type: ignore[arg-type]
            lambda replica: self.woken.append(replica.name),
        )
        self.done: list[Group] = []
        self.replicas = {name: self.start(name, sequences=sequences) for name in names}

    def start(
        self, name: str, life: int = 1, *, sequences: int = 8, base: str = BASE
    ) -> FakeReplica:
        hello = hello_of(name, f"{name}-{life}", sequences=sequences, base=base)
        replica = FakeReplica(self.dispatcher, hello)
        replica.connect()
        return replica

    def submit(self, *sizes: int, base: str = BASE, max_tokens: int | None = 16) -> list[Group]:
        groups = [
            make_group(n, done=self.done, base=base, max_tokens=max_tokens, key=i * 7919 << 40)
            for i, n in enumerate(sizes)
        ]
        self.dispatcher.submit(groups)
        return groups

    def tick(self, number: int) -> list[str]:
        """Names of the replicas that were silent for too long at the last of ``number`` ticks."""
        silent: list[str] = []
        for _ in range(number):
            silent = [replica.name for replica in self.dispatcher.tick()]
        return silent

    def home_of(self, group: Group) -> tuple[FakeReplica, FakeReplica]:
        """The replica that has a group's first child, and another one."""
        child = group.children[0]
        homes = [r for r in self.replicas.values() if child in r.replica.children.values()]
        others = [r for r in self.replicas.values() if r not in homes]
        return homes[0], others[0] if others else homes[0]


def tokens_of(group: Group, child: int = 0) -> list[int]:
    ids: list[int] = group.children[child].columns.token_ids.tolist()
    return ids


def segments_of(group: Group, child: int = 0) -> list[tuple[str, int, int, str]]:
    return [(s.replica, s.start, s.end, s.ended) for s in group.children[child].segments]


def outputs_of(asked: dict[int, Asked]) -> list[tuple[int, tuple[int, ...]]]:
    return [(a.attempt, a.output) for a in asked.values()]


# -- dispatch and credit ---------------------------------------------------------------------------


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


# -- cancelling ------------------------------------------------------------------------------------


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


# -- sessions break --------------------------------------------------------------------------------


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


# -- errors ----------------------------------------------------------------------------------------


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


# -- time ------------------------------------------------------------------------------------------


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


# -- the end ---------------------------------------------------------------------------------------


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
