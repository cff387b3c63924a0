"""The client's process ends, and another one takes its place."""

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
    end(client)
    # Whatever it had asked for and not got is nobody's any more.
    stage.strike()
    stage.abandoned_at = stage.fault_at
    stage.wait(lambda: _running(stage.pods.ready) == 0, "nothing of it runs any more")
    stage.recovered()
    stage.start_load(run=2)
    stage.wait_in_flight_of(run=2)
    return (
        f"process ended with {client.code}; replicas ran {before} sequences,"
        f" and none {stage.recovery_s:g} s later"
    )


def _running(pods: list[Object]) -> int:
    """Sequences that run or wait at the pods, and so take their slots."""
    loads = [status.load for status in map(_status, pods) if status.load is not None]
    return sum(load.running + load.waiting for load in loads)


def _status(pod: Object) -> ReplicaStatus:
    url = f"http://{pod['status']['podIP']}:{MANAGE_PORT}/status"
    answer = httpx.get(url, timeout=_ASK_SECONDS, trust_env=False)
    return msgspec.json.decode(answer.content, type=ReplicaStatus)
