"""A TCP proxy that breaks connections when it is told to, or by a seeded schedule.

It runs in a thread of its own. What it does to connections is decided by commands alone: a schedule
draws them from a seeded generator, so a seed always gives the same sequence of faults.
"""

import asyncio
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

__all__ = ["Fault", "FaultProxy", "FaultSchedule", "wait_until"]

Kind = Literal[
    "cut", "half_close_client", "half_close_server", "delay", "throttle", "stall", "reject"
]

KINDS: tuple[Kind, ...] = (
    "cut",
    "half_close_client",
    "half_close_server",
    "delay",
    "throttle",
    "stall",
    "reject",
)
_NEEDS_CONNECTION = ("cut", "half_close_client", "half_close_server")
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 1 << 16
_SHARE_OF_WAIT = 0.05
_LONGEST_PAUSE = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """After ``pause`` seconds: ``kind``, for ``seconds`` where it is a state and no event."""

    pause: float
    kind: Kind
    seconds: float


class FaultSchedule:
    """Faults drawn from a seed; the n-th is the same in every run.

    Every kind comes once a round, so that a short run has them all.
    """

    def __init__(self, seed: int, mean_pause: float = 0.5, mean_seconds: float = 0.3) -> None:
        self._random = random.Random(seed)
        self._mean_pause = mean_pause
        self._mean_seconds = mean_seconds
        self._round: list[Kind] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Fault:
        draw = self._random
        self._round = self._round or draw.sample(KINDS, len(KINDS))
        return Fault(
            draw.uniform(0.2, 1.8) * self._mean_pause,
            self._round.pop(),
            draw.uniform(0.2, 1.8) * self._mean_seconds,
        )


class _Pipe:
    """One direction of one connection."""

    def __init__(
        self, proxy: "FaultProxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self.writer = writer
        self._is_ended = False

    async def run(self) -> None:
        """Forward until the end of the stream."""
        proxy = self._proxy
        while data := await self._reader.read(_CHUNK):
            await proxy.flowing.wait()
            if proxy.delay_seconds:
                await asyncio.sleep(proxy.delay_seconds)
            if proxy.bytes_per_second:
                await asyncio.sleep(len(data) / proxy.bytes_per_second)
            if self._is_ended:
                # What comes after a half-close is lost.
                continue
            self.writer.write(data)
            await self.writer.drain()
        self.end()

    def end(self) -> None:
        """Say that nothing more comes; the other direction stays open."""
        if not self._is_ended and not self.writer.is_closing():
            self._is_ended = True
            self.writer.write_eof()


class FaultProxy:
    """Between clients, who connect to ``url``, and a server on ``target_port`` of this machine."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_seconds = 0.0
        self.bytes_per_second = 0.0
        self.counts: Counter[str] = Counter()
        self.flowing = asyncio.Event()
        self._pairs: dict[asyncio.Task[Any], tuple[_Pipe, _Pipe]] = {}
        self._has_pairs = asyncio.Event()
        self._is_rejecting = False
        self._listener: socket.socket | None = None
        self._chaos: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    # -- life --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self.flowing.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.counts["accepted"] += 1
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        task = self._loop.create_task(self._serve(accepted))
        # The task may be cancelled before it has begun, and then nobody else knows the socket:
        # asyncio's own server leaves it open.
        task.add_done_callback(lambda _: accepted.close())

    async def _close(self) -> None:
        if self._chaos is not None:
            self._chaos.cancel()
        self._stop_listening()
        # All of the loop's, not only those that have begun: a connection that was just accepted
        # has a task that has not run yet.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        # Transports that were aborted close at the loop's next turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    # -- connections -------------------------------------------------------------------------------

    async def _serve(self, accepted: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        reader, writer = await asyncio.open_connection(sock=accepted)
        try:
            if not self._is_rejecting:
                await self._forward(task, reader, writer)
        finally:
            _reset(writer)

    async def _forward(
        self, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            self.counts["target refused"] += 1
            return
        pipes = _Pipe(self, reader, upstream[1]), _Pipe(self, upstream[0], writer)
        self._pairs[task] = pipes
        self._has_pairs.set()
        try:
            async with asyncio.TaskGroup() as group:
                for pipe in pipes:
                    group.create_task(pipe.run())
        except* OSError:
            self.counts["broken"] += 1
        finally:
            del self._pairs[task]
            if not self._pairs:
                self._has_pairs.clear()
            for pipe in pipes:
                _reset(pipe.writer)

    def _reset_all(self) -> int:
        pairs = list(self._pairs.values())
        for pair in pairs:
            for pipe in pair:
                _reset(pipe.writer)
        return len(pairs)

    # -- commands, from any thread -----------------------------------------------------------------

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        return self._do(self._apply_cut())

    def half_close(self, side: Literal["client", "server"]) -> int:
        """Send the end of the stream to one side, while the other direction goes on."""
        return self._do(self._apply_half_close(side))

    def stall(self) -> None:
        """Forward nothing, lose nothing: a black hole until ``flow``."""
        self._loop.call_soon_threadsafe(self.flowing.clear)

    def flow(self) -> None:
        """End a stall."""
        self._loop.call_soon_threadsafe(self.flowing.set)

    def refuse(self) -> None:
        """Close the listening socket, as if the process behind it had ended."""

        async def refuse() -> None:
            self._stop_listening()

        self._do(refuse())

    def accept(self) -> None:
        """Listen again."""
        self._do(self._listen())

    def start(self, schedule: FaultSchedule) -> None:
        """Do what a schedule says until ``calm``; what breaks connections waits for one."""

        async def start() -> None:
            self._chaos = asyncio.create_task(self._follow(schedule))

        self._do(start())

    def calm(self) -> None:
        """End the schedule and every state that it left."""

        async def calm() -> None:
            if self._chaos is not None:
                self._chaos.cancel()
                await asyncio.gather(self._chaos, return_exceptions=True)
                self._chaos = None
            self.delay_seconds = self.bytes_per_second = 0.0
            self._is_rejecting = False
            self.flowing.set()
            await self._listen()

        self._do(calm())

    async def _apply_cut(self) -> int:
        return self._reset_all()

    async def _apply_half_close(self, side: Literal["client", "server"]) -> int:
        pairs = list(self._pairs.values())
        for to_server, to_client in pairs:
            (to_client if side == "client" else to_server).end()
        return len(pairs)

    async def _follow(self, schedule: FaultSchedule) -> None:
        for fault in schedule:
            await asyncio.sleep(fault.pause)
            if fault.kind in _NEEDS_CONNECTION:
                # What hits nothing would be counted for nothing.
                await self._has_pairs.wait()
            self.counts[fault.kind] += 1
            await self._apply(fault)

    async def _apply(self, fault: Fault) -> None:
        if fault.kind == "cut":
            self._reset_all()
        elif fault.kind == "half_close_client":
            await self._apply_half_close("client")
        elif fault.kind == "half_close_server":
            await self._apply_half_close("server")
        elif fault.kind == "delay":
            self.delay_seconds = fault.seconds / 4
            await asyncio.sleep(fault.seconds)
            self.delay_seconds = 0.0
        elif fault.kind == "throttle":
            self.bytes_per_second = 50_000.0
            await asyncio.sleep(fault.seconds)
            self.bytes_per_second = 0.0
        elif fault.kind == "stall":
            self.flowing.clear()
            await asyncio.sleep(fault.seconds)
            self.flowing.set()
        else:
            self._is_rejecting = True
            self._reset_all()
            await asyncio.sleep(fault.seconds)
            self._is_rejecting = False


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = 20.0, pause_seconds: float = 0.01
) -> None:
    """Return soon after ``condition`` holds. Raises AssertionError that says ``what`` did not.

    Pauses grow with the wait, by which it is a few percent longer: looking costs whoever is asked.
    """
    begun = time.monotonic()
    pause = threading.Event()
    while not condition():
        waited = time.monotonic() - begun
        if waited > seconds:
            raise AssertionError(f"within {seconds:g} s: {what}")
        pause.wait(max(pause_seconds, min(_LONGEST_PAUSE, waited * _SHARE_OF_WAIT)))
