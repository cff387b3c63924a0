"""What the client says to one replica, and when credit allows it to say more."""

import pytest
from tests.fake_replica import hello_of, make_group

from sampler_api.codec import client_columns, decode_client
from sampler_api.frames import CancelId, ClientFrame, Grant, Load
from sampler_client.replica import Replica
from sampler_core.groups import Group


def replica_with(sequences: int = 8, tokens: int = 1000) -> Replica:
    return Replica("http://a", hello_of(sequences=sequences, tokens=tokens))


def submit(replica: Replica, group: Group, cost: int = 10) -> None:
    replica.submit(group, group.children, cost)


def frame_of(replica: Replica) -> tuple[ClientFrame, list[bytes], list[bytes], list[int]]:
    frame, columns = decode_client(replica.take_frame())
    assert isinstance(frame, ClientFrame)
    prompts, outputs, acks = client_columns(frame, columns)
    return frame, [bytes(p) for p in prompts], [bytes(o) for o in outputs], acks


ROOM = [
    pytest.param(0, 8, 1000, 1, 10, True, id="an idle session takes one"),
    pytest.param(0, 8, 1000, 64, 9999, True, id="an idle session takes one input of any size"),
    pytest.param(0, 1, 1, 64, 9999, True, id="also when it was granted next to nothing"),
    pytest.param(3, 8, 1000, 5, 50, True, id="up to the granted sequences"),
    pytest.param(3, 8, 1000, 6, 60, False, id="not beyond the granted sequences"),
    pytest.param(3, 8, 1000, 1, 970, True, id="up to the granted tokens"),
    pytest.param(3, 8, 1000, 1, 971, False, id="not beyond the granted tokens"),
]


@pytest.mark.rule("S12.6", only=("remote",))
@pytest.mark.parametrize(("running", "sequences", "tokens", "more", "cost", "expected"), ROOM)
def test_credit(
    running: int, sequences: int, tokens: int, more: int, cost: int, expected: bool
) -> None:
    replica = replica_with(sequences, tokens)
    for _ in range(running):
        submit(replica, make_group(), 10)
    assert replica.has_room(more, cost) is expected


def test_a_lowered_grant_takes_nothing_away_and_allows_nothing_more() -> None:
    replica = replica_with(8)
    submit(replica, make_group(4))
    replica.take_grant(Grant(2, 2, 1000))
    assert len(replica.children) == 4
    assert not replica.has_room(1, 10)


def test_an_older_grant_is_not_taken() -> None:
    replica = replica_with(8)
    replica.take_grant(Grant(5, 3, 1000))
    replica.take_grant(Grant(4, 100, 1000))
    assert replica.grant == Grant(5, 3, 1000)


def test_every_way_out_gives_credit_back() -> None:
    replica = replica_with(3, 1000)
    submit(replica, make_group(3), 100)
    assert replica.inflight_tokens == 300
    replica.release(0)
    replica.drop(1)
    assert (replica.inflight_tokens, len(replica.children)) == (100, 1)
    replica.drop_session()
    assert (replica.inflight_tokens, replica.load_tokens, len(replica.children)) == (0, 0, 0)


def test_siblings_share_prompt_and_calls_share_params_and_revision() -> None:
    replica = replica_with()
    first, second = make_group(2, prompt=(1, 2, 3)), make_group(1, prompt=(4,))
    second.params, second.ref = first.params, first.ref
    submit(replica, first)
    submit(replica, second)
    frame, prompts, outputs, _ = frame_of(replica)
    assert (len(frame.params), len(frame.revisions)) == (1, 1)
    assert [len(s.children) for s in frame.submits] == [2, 1]
    assert [len(p) // 4 for p in prompts] == [3, 1]
    assert outputs == []
    assert [c.handle for s in frame.submits for c in s.children] == [0, 1, 2]


def test_delivered_tokens_travel_apart_from_the_prompt() -> None:
    replica = replica_with()
    group = make_group(2, prompt=(1, 2))
    group.children[1].columns.parts.append(b"\x07\0\0\0\x08\0\0\0")
    submit(replica, group)
    frame, prompts, outputs, _ = frame_of(replica)
    assert [c.output_length for c in frame.submits[0].children] == [0, 2]
    assert (len(prompts[0]), outputs) == (8, [b"\x07\0\0\0\x08\0\0\0"])
    assert [child.started for child in group.children] == [0, 2]


def test_seed_and_number_of_samples_are_no_part_of_the_params() -> None:
    import msgspec

    replica = replica_with()
    group = make_group()
    group.params.seed, group.params.num_samples = 5, 7
    submit(replica, group)
    frame = frame_of(replica)[0]
    assert msgspec.msgpack.decode(frame.params[0]) == {"max_tokens": 16}


def test_a_handle_is_free_again_at_the_last_word() -> None:
    replica = replica_with()
    submit(replica, make_group(2))
    assert replica.release(0) is not None
    submit(replica, make_group())
    assert sorted(replica.children) == [0, 1]


def test_a_dropped_handle_stays_taken_until_the_last_word() -> None:
    replica = replica_with()
    submit(replica, make_group(2))
    replica.drop(0)
    submit(replica, make_group())
    assert sorted(replica.children) == [1, 2]
    assert replica.release(0) is None
    submit(replica, make_group())
    assert sorted(replica.children) == [0, 1, 2]


def test_an_unknown_handle_frees_nothing() -> None:
    replica = replica_with()
    assert replica.release(17) is None
    submit(replica, make_group())
    assert sorted(replica.children) == [0]


def test_a_frame_says_everything_once() -> None:
    replica = replica_with()
    submit(replica, make_group())
    replica.cancel(5)
    replica.ack(6)
    replica.ack(700)
    replica.forget([CancelId(1, 2, 3)])
    assert replica.is_dirty
    frame, _, _, acks = frame_of(replica)
    assert (frame.cancels, acks, frame.cancel_ids) == ([5], [6, 700], [CancelId(1, 2, 3)])
    assert not replica.is_dirty
    frame, prompts, _, acks = frame_of(replica)
    assert (frame.submits, frame.cancels, acks, frame.cancel_ids, prompts) == ([], [], [], [], [])


def test_a_lost_session_unsays_what_was_not_sent() -> None:
    replica = replica_with()
    group = make_group(3)
    submit(replica, group)
    assert replica.drop_session() == group.children
    assert not replica.is_dirty
    assert not replica.has_room(1, 1) or not replica.children


def test_load_counts_what_other_clients_run_there() -> None:
    replica = replica_with()
    submit(replica, make_group(2), 100)
    replica.take_load(Load(kv_used=5000))
    assert replica.load_tokens == 5000
    replica.take_load(Load(kv_used=10))
    assert replica.load_tokens == 200


def test_a_handle_whose_cancel_was_not_sent_is_not_given_to_the_next_sequence() -> None:
    replica = replica_with()
    submit(replica, make_group())
    replica.take_frame()
    # The server's last word crosses the cancel, which takes effect behind the frame's submits.
    replica.drop(0)
    replica.cancel(0)
    replica.release(0)
    submit(replica, make_group())
    frame, *_ = frame_of(replica)
    assert frame.cancels == [0]
    assert [child.handle for child in frame.submits[0].children] == [1]
    submit(replica, make_group())
    assert sorted(replica.children) == [0, 1]
