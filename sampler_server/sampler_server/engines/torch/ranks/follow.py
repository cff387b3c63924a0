"""The process of another rank: loads its part of the model, and does what rank 0 says.

``python -m sampler_server.engines.torch.ranks.follow ORDERS SIDE LEADER``: two file descriptors of
sockets, and the process id of rank 0. It ends with rank 0, in whatever it is.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .orders import Channel, Discard, Load, Ping, Pong, Refused, Stage, Staged, StageWeights
from .processes import error_of

if TYPE_CHECKING:
    from .follower import Follower

log = logging.getLogger(__name__)

_FAILED = 1


class _Side:
    """Answers on the second channel, and ends the process with rank 0."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.follower: Follower | None = None
        self._work: SimpleQueue[Stage | StageWeights | Discard] = SimpleQueue()

    def start(self) -> None:
        """Two threads: one that always answers, and one that takes adapters and weights in, which
        may last."""
        for name, run in (("side", self._run), ("stages", self._take_in)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                match self.channel.receive():
                    case Ping():
                        self.channel.send(Pong())
                    case Stage() | StageWeights() | Discard() as work:
                        self._work.put(work)
        except OSError:
            # Rank 0 has gone; the main thread may wait for it in the middle of a step.
            os._exit(0)

    def _take_in(self) -> None:
        while True:
            work = self._work.get()
            # Rank 0 asks for nothing before this rank was ready.
            assert self.follower is not None
            try:
                match work:
                    case Discard(stage):
                        self.follower.discard(stage)
                        continue
                    case Stage():
                        self.follower.stage(work)
                    case StageWeights():
                        self.follower.stage_weights(work)
                answer: Staged | Refused = Staged(work.stage)
            except Exception as error:
                # Whatever it is, rank 0's caller gets it; most likely a device that is full.
                log.exception("what was to be staged could not be taken in")
                answer = Refused(work.stage, error_of(error).message)
            try:
                self.channel.send(answer)
            except OSError:
                log.debug("rank 0 has gone; the other thread ends the process")
                return


def _end_with(leader: int) -> None:
    """Also where another process has a copy of rank 0's ends of the channels."""
    try:
        descriptor = os.pidfd_open(leader)
    except OSError:
        log.debug("no pidfd here: the channels must do", exc_info=True)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os._exit(0)


def main(orders: int, side: int, leader: int) -> int:
    """Follow until the end; the exit code."""
    # Rank 0 decides when the ranks end: at the end of a drain, not at its beginning.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=orders))
    answers = _Side(Channel(socket.socket(fileno=side)))
    if os.getppid() != leader:
        return 0
    threading.Thread(target=_end_with, args=(leader,), name="leader", daemon=True).start()
    answers.start()
    try:
        load = channel.receive()
        assert isinstance(load, Load)
        logging.basicConfig(
            level=load.log_level,
            format=f"%(asctime)s %(levelname)s rank {load.rank}: %(name)s: %(message)s",
            stream=sys.stderr,
        )
        from .follower import Follower

        answers.follower = follower = Follower(load)
        follower.run(channel, answers.channel)
    except ConnectionError:
        return 0
    except Exception as error:
        log.exception("a rank failed")
        answers.channel.send(error_of(error))
        return _FAILED
    return 0


if __name__ == "__main__":
    # Not sys.exit: threads of torch may still wait for a rank that has gone.
    os._exit(main(*map(int, sys.argv[1:])))
