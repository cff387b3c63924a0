"""What answers of the API server mean to the operator: whose fault it is, what is worth a retry."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from kubernetes.aio.client import Configuration

from sampler_operator.errors import ClusterError, Denied, Missing, Refused, Unavailable
from sampler_operator.kube.api import KubeApi

FORBIDDEN = 'pods is forbidden: User "a" cannot list resource "pods" in API group ""'
FINALIZERS = "cannot set blockOwnerDeletion: you can't set finalizers on a"
UNKNOWN_KIND = "cannot set blockOwnerDeletion: cannot find RESTMapping for APIVersion a"


class Answering(HTTPServer):
    """Says the same to everybody."""

    status = 200
    body = b"{}"


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), _Handler) as answering:
        thread = Thread(target=answering.serve_forever, args=(0.01,))
        thread.start()
        yield answering
        answering.shutdown()
        thread.join()


async def ask(server: Answering) -> object:
    api = KubeApi(Configuration(host=f"http://127.0.0.1:{server.server_port}"))
    try:
        return await api.call("GET", "/api/v1/pods")
    finally:
        await api.close()


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        pytest.param(400, "bad", Refused, id="a request that is wrong"),
        pytest.param(401, "Unauthorized", Denied, id="an unknown user"),
        pytest.param(403, FORBIDDEN, Denied, id="a right that is missing"),
        pytest.param(403, FINALIZERS, Denied, id="the right to block a deletion is missing"),
        pytest.param(403, UNKNOWN_KIND, Unavailable, id="a kind that a plugin does not know yet"),
        pytest.param(403, "exceeded quota", Refused, id="a quota"),
        pytest.param(404, "not found", Missing, id="an object that is not there"),
        pytest.param(409, "conflict", Refused, id="a conflict"),
        pytest.param(410, "too old", Unavailable, id="a list that went on too long"),
        pytest.param(422, "invalid", Refused, id="an object that is invalid"),
        pytest.param(429, "too many", Unavailable, id="too many requests"),
        pytest.param(500, "etcd: request timed out", Unavailable, id="a store that hangs"),
        pytest.param(503, "starting", Unavailable, id="a server that starts"),
    ],
)
async def test_an_error(
    server: Answering, status: int, message: str, error: type[ClusterError]
) -> None:
    server.status, server.body = status, json.dumps({"message": f"{message}\nand more"}).encode()
    with pytest.raises(ClusterError) as caught:
        await ask(server)
    assert type(caught.value) is error
    assert caught.value.message.startswith(f"{message} and more")


async def test_an_answer_that_is_no_status_is_told_by_its_call(server: Answering) -> None:
    server.status, server.body = 502, b"<html>Bad gateway</html>"
    with pytest.raises(Unavailable, match="GET /api/v1/pods: HTTP status 502"):
        await ask(server)


async def test_who_does_not_answer_may_be_asked_again(server: Answering) -> None:
    server.server_port = unused_port()
    with pytest.raises(Unavailable, match="GET /api/v1/pods: Cannot connect"):
        await ask(server)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
