"""The processes of the other ranks: started, watched, and ended by rank 0.

They do not outlive it: each watches its channel to rank 0, which ends when that process does. And
it does not outlive them: one that dies, or does not answer, ends all.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

from sampler_api.errors import EngineDead, ModelInvalid, SamplerError

from .orders import (
    Channel,
    Discard,
    Failed,
    Load,
    Order,
    Ping,
    Ready,
    Refused,
    Stage,
    Staged,
    StageWeights,
    Stop,
)

__all__ = ["Processes"]

log = logging.getLogger(__name__)

_MODULE: Final = "sampler_server.engines.torch.ranks.follow"
_PING_SECONDS: Final = 1.0
_SILENT_PINGS: Final = 10
"""Unanswered ones after which a rank hangs, also those that found no room in the socket: time when
all processes stood still does not count."""
_CLOSED: Final = "the engine is closed"
_END_SECONDS: Final = 5.0
_REASON_SECONDS: Final = 2.0
"""How long after an error of a common step is waited for what is behind it."""


class _Rank:
    """Another rank's process and the channels to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        orders, theirs = socket.socketpair()
        side, their_side = socket.socketpair()
        with theirs, their_side:
            words = [str(end.fileno()) for end in (theirs, their_side)]
            self.process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *words, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                # What a server prints is read by who started it.
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), their_side.fileno()),
            )
        self.orders = Channel(orders)
        self.side = Channel(side)
        self.is_ready = False
        self.failure: Failed | None = None

    def ended(self) -> str:
        """How its process ended, in words; it has, or does now."""
        try:
            code = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "closed its channel"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}"


class Processes:
    """All ranks but the first. ``lost`` is called once, from a thread of this class, with one line,
    when one of them has died or hangs; by then all have been killed.
    """

    def __init__(self, loads: Sequence[Load], lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._changed = threading.Condition()
        self._reason = ""
        self._is_model = False
        self._was_killed = False
        self._is_ending = False
        self._last_stage = 0
        self._staged: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._ranks: list[_Rank] = []
        self._watchers: list[threading.Thread] = []
        self.size = len(loads) + 1
        self.on_loss: Callable[[], None] = lambda: None
        """What lets go of a thread that waits for a rank that has gone."""
        for load in loads:
            try:
                self._ranks.append(_Rank(load.rank))
            except OSError as error:
                self._kill()
                raise EngineDead(f"rank {load.rank} cannot be started: {error}") from error
        for rank, load in zip(self._ranks, loads, strict=True):
            try:
                rank.orders.send(load)
            except OSError:
                log.debug("rank %d has ended; its watcher says how", rank.number)
            watcher = threading.Thread(
                target=self._watch, args=(rank,), name=f"torch-rank-{rank.number}", daemon=True
            )
            self._watchers.append(watcher)
            watcher.start()

    @property
    def reason(self) -> str:
        """How a rank was lost; empty while all live."""
        return self._reason

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [rank.process.pid for rank in self._ranks]

    def wait_ready(self) -> None:
        """Wait until all have loaded. Raises ModelInvalid, EngineDead."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._has_ended or all(rank.is_ready for rank in self._ranks)
            )
            if self._has_ended:
                raise (ModelInvalid if self._is_model else EngineDead)(self._reason or _CLOSED)

    def order(self, order: Order) -> None:
        """Tell all what rank 0 does next. Raises EngineDead."""
        try:
            for rank in self._ranks:
                rank.orders.send(order)
        except OSError as error:
            raise EngineDead(self.why(error)) from error

    def begin_stage(self, parts: Sequence[Stage | StageWeights]) -> int:
        """Give each rank its part of something to take in; the number of the stage, for
        ``finish_stage`` or ``discard``. Raises EngineDead."""
        with self._changed:
            self._last_stage += 1
            number = self._last_stage
            self._staged[number] = 0
        try:
            for rank, part in zip(self._ranks, parts, strict=True):
                part.stage = number
                rank.side.send(part)
        except OSError as error:
            raise EngineDead(self.why(error)) from error
        return number

    def finish_stage(self, stage: int) -> str:
        """Wait until all ranks have their parts. Not empty: why one has not; then nobody has.

        Raises EngineDead.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._has_ended
                    or stage in self._refused
                    or self._staged[stage] == len(self._ranks)
                )
            )
            if self._has_ended:
                raise EngineDead(self._reason or _CLOSED)
            refused = self._refused.get(stage, "")
        if refused:
            self.discard(stage)
        return refused

    def discard(self, stage: int) -> None:
        """Forget a stage everywhere, also one that is not finished. Raises EngineDead."""
        with self._changed:
            self._staged.pop(stage, None)
            self._refused.pop(stage, None)
        try:
            for rank in self._ranks:
                rank.side.send(Discard(stage))
        except OSError as error:
            raise EngineDead(self.why(error)) from error

    def why(self, error: Exception) -> str:
        """One line: how a rank was lost, or else what rank 0 itself met."""
        with self._changed:
            self._changed.wait_for(lambda: self._reason, _REASON_SECONDS)
            if self._reason:
                return self._reason
        return f"rank 0 of {self.size} failed: {type(error).__name__}: {error}"

    def was_killed(self) -> bool:
        """A rank has ended without a word of its own. Waits for it a little."""
        with self._changed:
            self._changed.wait_for(lambda: self._reason, _REASON_SECONDS)
            return self._was_killed

    def close(self) -> None:
        """Let them end; kill those that do not. Idempotent."""
        self._let_go()
        for rank in self._ranks:
            try:
                rank.orders.try_send(Stop())
            except OSError:
                log.debug("rank %d has ended before", rank.number)
        for rank in self._ranks:
            try:
                rank.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("rank %d does not end; it is killed", rank.number)
        self.kill()
        for watcher in self._watchers:
            watcher.join(_END_SECONDS)
        for rank in self._ranks:
            rank.orders.close()
            rank.side.close()

    def kill(self) -> None:
        """SIGKILL to all; never blocks."""
        self._let_go()
        self._kill()

    @property
    def _has_ended(self) -> bool:
        return self._is_ending or bool(self._reason)

    def _let_go(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.process.kill()

    # -- the watchers ------------------------------------------------------------------------------

    def _watch(self, rank: _Rank) -> None:
        silent = written = 0
        while True:
            try:
                if rank.side.has_message(_PING_SECONDS):
                    silent = 0
                    self._take(rank, rank.side.receive())
                elif rank.is_ready:
                    # It answers behind what it is being sent, which may be large.
                    silent = silent + 1 if rank.side.written == written else 0
                    if silent > _SILENT_PINGS:
                        seconds = _SILENT_PINGS * _PING_SECONDS
                        self._end(rank, f"has not answered for {seconds:.0f} s")
                        return
                    rank.side.try_send(Ping())
                    written = rank.side.written
            except OSError:
                self._end(rank, "")
                return

    def _take(self, rank: _Rank, answer: object) -> None:
        with self._changed:
            match answer:
                case Ready():
                    rank.is_ready = True
                case Staged(stage):
                    if stage in self._staged:
                        self._staged[stage] += 1
                case Refused(stage, message):
                    if stage in self._staged:
                        self._refused[stage] = f"rank {rank.number} of {self.size}: {message}"
                case Failed():
                    rank.failure = answer
            self._changed.notify_all()

    def _end(self, rank: _Rank, how: str) -> None:
        """A rank has gone; the first one counts. ``how``: in words, if its process still runs."""
        failure = rank.failure
        if not how:
            how = f"failed: {failure.message}" if failure is not None else rank.ended()
        reason = f"rank {rank.number} of {self.size} {how}"
        with self._changed:
            if self._is_ending or self._reason:
                return
            self._reason = reason
            self._is_model = failure is not None and failure.is_model
            self._was_killed = failure is None
            self._changed.notify_all()
        log.error("%s", reason)
        self._kill()
        self.on_loss()
        self._lost(reason)


def error_of(error: BaseException) -> Failed:
    """What a rank says before it ends."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, SamplerError):
        return Failed(error.message, isinstance(error, ModelInvalid))
    return Failed(f"{type(error).__name__}: {lines[0]}", False)
