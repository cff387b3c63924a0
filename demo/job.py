"""The job: two streams of samples at once, base and adapter, and a replica that dies halfway."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sampler_api.results import SampleResponse
from sampler_api.types import Trajectory
from sampler_client import RemoteSampler

from .fleet import Replica

__all__ = ["Halves", "JobError", "Killer", "run_job"]

_LOOK_SECONDS: Final = 0.05
_STUCK_SECONDS: Final = 120.0
_STEPS_BEFORE_KILL: Final = 10
"""Engine steps that running sequences have had when their replica dies, so that it meets them with
tokens that have been delivered."""


class JobError(Exception):
    """The job could not go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Input numbers by the adapter name that they are sampled with; the empty name is the base."""

    inputs: Mapping[str, Sequence[int]]

    @property
    def number(self) -> int:
        """Inputs in all."""
        return sum(map(len, self.inputs.values()))


@dataclass(slots=True)
class Killer:
    """Kills one replica once: half of the inputs are finished, and it is in the midst of others."""

    replicas: Sequence[Replica]
    after: int
    victim: Replica | None = None
    running: int = 0
    _first_look: dict[str, int] = field(default_factory=dict)

    def look(self, finished: int) -> bool:
        """Whether it has just killed one. Raises FleetError when another one is dead or does not
        answer."""
        for replica in self.replicas:
            if replica is not self.victim:
                replica.check_alive()
        if self.victim is not None or finished < self.after:
            return False
        for replica in self.replicas:
            status = replica.status()
            steps = self._first_look.setdefault(replica.name, status.steps)
            if status.running and status.steps >= steps + _STEPS_BEFORE_KILL:
                replica.kill(status)
                self.victim, self.running = replica, status.running
                return True
        return False


def run_job(
    sampler: RemoteSampler,
    conversations: Sequence[Trajectory],
    halves: Halves,
    params: Mapping[str, Any],
    children: int,
    killer: Killer,
    on_finished: Callable[[int], object],
    on_kill: Callable[[], object],
) -> list[tuple[int, SampleResponse]]:
    """Responses with their input numbers, in the order of finishing.

    ``on_finished`` gets the number of finished inputs, ``on_kill`` is called after the kill. Raises
    JobError, FleetError, and whatever a stream raises.
    """
    arrived: queue.SimpleQueue[tuple[int, SampleResponse] | BaseException | None] = (
        queue.SimpleQueue()
    )

    def collect(name: str, numbers: Sequence[int]) -> None:
        inputs = [conversations[number] for number in numbers]
        try:
            with sampler.sample_stream(inputs, params, name, num_samples=children) as stream:
                for index, response in stream:
                    arrived.put((numbers[index], response))
        except BaseException as error:
            arrived.put(error)
        else:
            arrived.put(None)

    for name, numbers in halves.inputs.items():
        threading.Thread(target=collect, args=(name, numbers), daemon=True).start()

    results: list[tuple[int, SampleResponse]] = []
    open_streams = len(halves.inputs)
    idle = 0.0
    while open_streams:
        try:
            item = arrived.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            idle += _LOOK_SECONDS
            if idle >= _STUCK_SECONDS:
                raise JobError(
                    f"nothing arrived for {_STUCK_SECONDS:.0f} s; {len(results)} of "
                    f"{halves.number} inputs are finished"
                ) from None
        else:
            idle = 0.0
            if item is None:
                open_streams -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                results.append(item)
                on_finished(len(results))
        if open_streams and killer.look(len(results)):
            on_kill()
    if killer.victim is None:
        raise JobError("everything finished before a replica could be killed halfway")
    return results
