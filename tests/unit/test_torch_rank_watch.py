"""How rank 0 finds that another rank hangs. No process is started: the test speaks for the rank."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("torch")

from sampler_api.errors import EngineDead
from sampler_server.engines.torch.ranks import processes
from sampler_server.engines.torch.ranks.orders import (
    Channel,
    Load,
    Ready,
    Stage,
    Staged,
)
from sampler_server.engines.torch.ranks.processes import Processes

LARGE = bytes(8 << 20)
"""More than the buffer of a socket takes."""


class Rank:
    """What stands for ``_Rank``; ``theirs`` is the rank's end of the second channel."""

    failure = None

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_ready = False
        self.process = self
        self.pid = 0
        orders, self._orders = socket.socketpair()
        side, self.theirs = socket.socketpair()
        self.orders, self.side = Channel(orders), Channel(side)
        self.answers = Channel(self.theirs)

    def ended(self) -> str:
        return "ended with code 0"

    def kill(self) -> None:
        for end in (self._orders, self.theirs):
            # Not only closed: another thread may be in it.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> int:
        return 0


class World:
    """One other rank, ready; ``lost`` is set with the reason when it is given up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "_PING_SECONDS", 0.01)
        monkeypatch.setattr(processes, "_Rank", self._rank)
        self.reason = ""
        self.lost = threading.Event()
        load = Load(1, 2, "m", "cpu", "auto", False, 1, "", 30)
        self.processes = Processes([load], self._lose)
        self.rank.answers.send(Ready())
        self.processes.wait_ready()

    def _rank(self, number: int) -> Any:
        self.rank = Rank(number)
        return self.rank

    def _lose(self, reason: str) -> None:
        self.reason = reason
        self.lost.set()

    def close(self) -> None:
        self.processes.close()
        for end in (self.rank._orders, self.rank.theirs):
            end.close()

    def staging(self) -> "Staging":
        return Staging(self._stage)

    def _stage(self) -> str:
        return self.processes.finish_stage(self.processes.begin_stage([Stage(0, [], LARGE)]))


class Staging:
    """An adapter on its way, in a thread."""

    def __init__(self, stage: Callable[[], str]) -> None:
        self.found: str | Exception | None = None
        self._stage = stage
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.found = self._stage()
        except Exception as error:
            self.found = error

    def wait(self) -> str | Exception | None:
        """Why it was refused, empty if it was not; or what it raised."""
        self._thread.join(8)
        assert not self._thread.is_alive()
        return self.found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(monkeypatch)
    yield world
    world.close()


def test_a_rank_that_hangs_while_it_gets_an_adapter_is_found(world: World) -> None:
    staging = world.staging()
    assert world.lost.wait(8)
    assert "rank 1 of 2 has not answered" in world.reason
    assert isinstance(staging.wait(), EngineDead)


def test_a_rank_that_reads_an_adapter_slowly_lives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little at each look, and no answer before it has all."""
    has_message, read = world.rank.side.has_message, 0
    world.rank.theirs.setblocking(False)

    def look(seconds: float) -> bool:
        nonlocal read
        if read < len(LARGE):
            with suppress(BlockingIOError):
                read += len(world.rank.theirs.recv(1 << 20))
            if read >= len(LARGE):
                world.rank.theirs.setblocking(True)
                world.rank.answers.send(Staged(1))
        return has_message(seconds)

    monkeypatch.setattr(world.rank.side, "has_message", look)
    assert world.staging().wait() == ""
    assert not world.lost.is_set()


def test_closing_does_not_wait_for_a_rank_that_reads_nothing(world: World) -> None:
    def write() -> None:
        with pytest.raises(OSError):  # noqa: PT011 - of whatever kind
            world.rank.orders.send_bytes(LARGE)

    staging = threading.Thread(target=write, daemon=True)
    staging.start()
    closing = threading.Thread(target=world.processes.close, daemon=True)
    closing.start()
    closing.join(8)
    assert not closing.is_alive()
    staging.join(8)
    assert not staging.is_alive()
