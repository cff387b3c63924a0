"""The client's process ends, and another one takes its place."""

import time
from collections.abc import Callable
from typing import Final

import httpx
import msgspec
from tests.apiserver_client import Object
from tests.faults.clients import ClientProcess
from tests.faults.stage import Stage

from sampler_api.fleet import ReplicaStatus
from sampler_api.names import MANAGE_PORT

__all__ = ["killed", "said_bye"]

_ASK_SECONDS: Final = 5.0


def killed(stage: Stage) -> str:
    """SIGKILL: its sequences run on for the orphan lease, and then end."""
    return _replaced(stage, ClientProcess.kill)


def said_bye(stage: Stage) -> str:
    """SIGTERM, on which the job closes its sampler: its sequences end at once."""

    def stop(client: ClientProcess) -> None:
        client.stop()
        client.wait()

    return _replaced(stage, stop)


def _replaced(stage: Stage, end: Callable[[ClientProcess], None]) -> str:
    [client] = stage.clients
    before = _running(stage.pods.ready)
    # What its last moments say still counts: it is read when it has ended.
    stage.strike()
    end(client)
    stage.abandoned_at = ended = time.monotonic()
    stage.wait(lambda: _running(stage.pods.ready) == (0, 0), "nothing of it is left")
    stage.recovered()
    seconds = time.monotonic() - ended
    stage.start_load(run=2)
    stage.wait_in_flight_of(run=2)
    return (
        f"process ended with {client.code}; replicas ran {before[0]} sequences,"
        f" and none {seconds:.1f} s later"
    )


def _running(pods: list[Object]) -> tuple[int, int]:
    """Sequences that run or wait at the pods, and streams that they keep for a client."""
    statuses = [_status(pod) for pod in pods]
    loads = [status.load for status in statuses if status.load is not None]
    running = sum(load.running + load.waiting for load in loads)
    return running, sum(status.kept_streams for status in statuses)


def _status(pod: Object) -> ReplicaStatus:
    url = f"http://{pod['status']['podIP']}:{MANAGE_PORT}/status"
    answer = httpx.get(url, timeout=_ASK_SECONDS, trust_env=False)
    return msgspec.json.decode(answer.content, type=ReplicaStatus)
