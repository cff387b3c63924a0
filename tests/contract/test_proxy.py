"""The fault proxy breaks what it is told to break, and a seed always gives the same faults."""

import asyncio
import gc
import socket
import socketserver
import threading
from collections.abc import Iterator
from itertools import islice, takewhile

import pytest
from tests.proxy import KINDS, FaultProxy, FaultSchedule, wait_until


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)
            # What is said after the client's last word shows that this direction is open.
            self.request.sendall(b"bye")
        except OSError:
            pass


class Echoes(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with Echoes(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with FaultProxy(server.server_address[1]) as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


def connect(proxy: FaultProxy) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    made.settimeout(5)
    return made


def echo(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(1 << 16)


def test_bytes_pass_both_ways(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert echo(connection, b"one") == b"one"


def test_a_cut_resets_the_connection_and_the_next_one_works(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        echo(connection, b"one")
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(proxy) as connection:
        assert echo(connection, b"two") == b"two"


def test_a_half_close_to_the_server_leaves_the_way_back_open(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        echo(connection, b"one")
        assert proxy.half_close("server") == 1
        assert connection.recv(10) == b"bye"


def test_a_half_close_to_the_client_ends_what_it_reads(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        echo(connection, b"one")
        proxy.half_close("client")
        assert connection.recv(10) == b""


def test_a_stall_loses_nothing(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        echo(connection, b"one")
        proxy.stall()
        connection.sendall(b"two")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        connection.settimeout(5)
        proxy.flow()
        assert connection.recv(10) == b"two"


def test_a_closed_listener_refuses_until_it_listens_again(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.accept()
    with connect(proxy) as connection:
        assert echo(connection, b"one") == b"one"


def test_connections_that_it_accepts_while_it_closes_are_closed(proxy: FaultProxy) -> None:
    released = threading.Event()
    # Held up, so that one turn finds the connections and the end.
    proxy._loop.call_soon_threadsafe(released.wait)
    made = [connect(proxy) for _ in range(5)]
    closed = asyncio.run_coroutine_threadsafe(proxy._close(), proxy._loop)
    released.set()
    closed.result(5)
    for connection in made:
        with connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert proxy.counts["accepted"] > 0
    # What was left open says so when it is collected.
    gc.collect()


def test_a_schedule_runs_until_calm(proxy: FaultProxy) -> None:
    proxy.start(FaultSchedule(1, mean_pause=0.002, mean_seconds=0.002))

    def has_every_kind() -> bool:
        connect(proxy).close()
        return set(KINDS) <= set(proxy.counts)

    wait_until(has_every_kind, "every kind of fault")
    proxy.calm()
    with connect(proxy) as connection:
        assert echo(connection, b"one") == b"one"


def test_a_fault_that_breaks_connections_waits_for_one(proxy: FaultProxy) -> None:
    breaking = {"cut", "half_close_client", "half_close_server"}
    kinds = [fault.kind for fault in islice(FaultSchedule(5), 20)]
    before = list(takewhile(lambda kind: kind not in breaking, kinds))
    assert before
    proxy.start(FaultSchedule(5, mean_pause=0.002, mean_seconds=0.002))
    wait_until(lambda: set(before) <= set(proxy.counts), "what needs no connection")
    assert not set(proxy.counts) & breaking
    with connect(proxy):
        wait_until(lambda: kinds[len(before)] in proxy.counts, "the fault that waited")


def test_a_seed_gives_the_same_faults() -> None:
    first, again, other = FaultSchedule(3), FaultSchedule(3), FaultSchedule(4)
    faults = list(islice(first, 100))
    rounds = [{fault.kind for fault in faults[i : i + 7]} for i in range(0, 98, 7)]
    assert rounds == [set(KINDS)] * 14
    assert faults == list(islice(again, 100)) != list(islice(other, 100))
    assert {fault.kind for fault in faults} == set(KINDS)
