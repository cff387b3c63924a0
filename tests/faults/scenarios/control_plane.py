"""Parts of the cluster that clients could do without are gone for a while."""

import socket
import struct
from contextlib import ExitStack, suppress
from typing import Final

from tests.apiserver_client import RefusedError
from tests.faults.stage import Stage

__all__ = ["api_down", "dns_down", "etcd_restarted"]

_OUTAGE_SECONDS: Final = 30
_NAME: Final = b"kubernetes.default.svc.cluster.local"


def api_down(stage: Stage) -> str:
    """No API server for 30 s."""
    with ExitStack() as stack:
        stage.strike()
        stack.callback(stage.cluster.start_api)
        stage.cluster.stop_api()
        refused = ""
        try:
            stage.cluster.client.get("/readyz")
        except OSError as error:
            refused = str(error)
        assert refused, "the API server answers still"
        stage.for_seconds(_OUTAGE_SECONDS)
    stage.wait_recovered()
    return f"/readyz: {refused}; {_OUTAGE_SECONDS} s later: ok"


def etcd_restarted(stage: Stage) -> str:
    """etcd is killed, and started again with its data."""
    before = stage.cluster.etcd_pid
    stage.strike()
    stage.cluster.restart_etcd()

    def is_ready() -> bool:
        with suppress(OSError, RefusedError):
            stage.cluster.client.get("/readyz")
            return True
        return False

    stage.wait(is_ready, "the API server has found it again")
    stage.wait_recovered()
    now = stage.cluster.etcd_pid
    assert now != before
    return f"process {before} of etcd gone, now {now}; /readyz: ok"


def dns_down(stage: Stage) -> str:
    """Clients that find replicas by DNS, and no DNS for 30 s."""
    server = stage.cluster.dns_address
    assert has_answer(server)
    stage.strike()
    stage.cluster.stop_dns()
    try:
        stage.for_seconds(_OUTAGE_SECONDS)
        assert not has_answer(server), "somebody answers still"
    finally:
        stage.cluster.start_dns()
    stage.wait_recovered(lambda: has_answer(server))
    return f"no answer from {server}:53; {_OUTAGE_SECONDS} s later answers"


def has_answer(server: str) -> bool:
    """A server of names answers a question."""
    labels = b"".join(bytes([len(label)]) + label for label in _NAME.split(b"."))
    question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!B2H", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(OSError):
        asking.settimeout(1)
        asking.connect((server, 53))
        asking.send(question)
        return bool(asking.recv(512))
    return False
