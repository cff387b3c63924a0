"""The table of streams: who is found, kept, orphaned and forgotten."""

import pytest

from sampler_api.errors import UnknownRequest
from sampler_api.frames import LENGTH
from sampler_server.settings import StreamSettings
from sampler_server.streams import Stream, StreamTable, stream_id

SETTINGS = StreamSettings(lease_seconds=30.0, keep_seconds=120.0, keep_bytes=100_000)


class Nobody:
    def moved(self, stream: Stream) -> None: ...


@pytest.fixture
def table() -> StreamTable:
    return StreamTable(SETTINGS)


def stream(key: int, seq: int = 0, child: int = 0, attempt: int = 0, client: str = "c") -> Stream:
    return Stream(key, client, stream_id(seq, child), attempt, 3, 0, 0, 10, Nobody(), 0, 0.0)


def test_ids_keep_sequence_and_child_apart() -> None:
    one = stream(1, seq=70_000, child=4095)
    assert (one.seq, one.child) == (70_000, 4095)


def test_a_running_stream_is_found_by_its_exact_attempt(table: StreamTable) -> None:
    running = stream(1, seq=2, child=1, attempt=3)
    table.add(running)
    assert table.find("c", running.id, 3) is running
    assert table.running == {1: running}


@pytest.mark.parametrize(
    ("client", "id_", "attempt"),
    [
        pytest.param("d", stream_id(2, 1), 3, id="of another client"),
        pytest.param("c", stream_id(2, 0), 3, id="of another child"),
        pytest.param("c", stream_id(2, 1), 2, id="of an earlier attempt"),
        pytest.param("c", stream_id(2, 1), 4, id="of a later attempt"),
    ],
)
def test_a_stream_is_unknown(table: StreamTable, client: str, id_: int, attempt: int) -> None:
    table.add(stream(1, seq=2, child=1, attempt=3))
    with pytest.raises(UnknownRequest):
        table.find(client, id_, attempt)


@pytest.mark.rule("S12.5", only=("remote",))
def test_a_finished_stream_waits_for_its_ack(table: StreamTable) -> None:
    one = stream(1)
    table.add(one)
    one.columns.tokens += b"1234" * 10
    table.end(one, LENGTH, 5.0)
    assert (table.running, table.kept) == ({}, 1)
    assert table.find("c", one.id, 0) is one
    assert table.kept_bytes >= 40
    table.forget(one)
    assert (table.kept, table.kept_bytes) == (0, 0)
    with pytest.raises(UnknownRequest):
        table.find("c", one.id, 0)


def test_a_stream_of_this_process_is_gone_when_it_ends(table: StreamTable) -> None:
    one = stream(1, client="")
    table.add(one)
    table.end(one, LENGTH, 5.0)
    assert (table.running, table.kept) == ({}, 0)


@pytest.mark.rule("S12.5", only=("remote",))
def test_columns_nobody_acks_are_dropped_after_two_minutes(table: StreamTable) -> None:
    early, late = stream(1, seq=1), stream(2, seq=2)
    for one, ended in ((early, 0.0), (late, 60.0)):
        table.add(one)
        table.end(one, LENGTH, ended)
    assert table.expire(119.0) == ([], [])
    assert table.expire(121.0) == ([], [early])
    assert table.find("c", late.id, 0) is late
    assert table.expire(181.0) == ([], [late])


@pytest.mark.rule("S12.5", only=("remote",))
def test_over_the_byte_limit_the_oldest_goes_first(table: StreamTable) -> None:
    streams = [stream(key, seq=key) for key in range(5)]
    for one in streams:
        table.add(one)
        one.columns.tokens += bytes(30_000)
        table.end(one, LENGTH, float(one.key))
    _, dropped = table.expire(10.0)
    assert dropped == streams[:2]
    assert table.kept_bytes <= SETTINGS.keep_bytes


@pytest.mark.rule("S12.4", only=("remote",))
def test_an_orphan_is_aborted_when_its_lease_ends(table: StreamTable) -> None:
    one = stream(1)
    table.add(one)
    table.orphan([one], 100.0)
    assert table.expire(129.9) == ([], [])
    assert table.expire(130.0) == ([one], [])


@pytest.mark.rule("S12.4", only=("remote",))
def test_an_orphan_that_was_joined_again_is_not_aborted(table: StreamTable) -> None:
    one = stream(1)
    table.add(one)
    table.orphan([one], 100.0)
    one.bind(Nobody(), 0, 0)
    assert table.expire(200.0) == ([], [])


def test_a_second_loss_begins_a_new_lease(table: StreamTable) -> None:
    one = stream(1)
    table.add(one)
    table.orphan([one], 100.0)
    one.bind(Nobody(), 0, 0)
    table.orphan([one], 120.0)
    assert table.expire(131.0) == ([], [])
    assert table.expire(150.0) == ([one], [])


def test_an_orphan_that_finished_is_kept_and_not_aborted(table: StreamTable) -> None:
    one = stream(1)
    table.add(one)
    table.orphan([one], 100.0)
    table.end(one, LENGTH, 110.0)
    assert table.expire(131.0) == ([], [])
    assert table.find("c", one.id, 0) is one


def test_a_superseded_attempt_does_not_take_its_successor_along(table: StreamTable) -> None:
    old, new = stream(1, attempt=0), stream(2, attempt=1)
    table.add(old)
    table.end(old, LENGTH, 0.0)
    table.add(new)
    table.forget(old)
    assert table.find("c", new.id, 1) is new
