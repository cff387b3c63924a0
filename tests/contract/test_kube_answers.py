"""What answers of the API server mean to the operator: whose fault it is, what is worth a retry."""

import asyncio
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.config_exception import ConfigException

from sampler_operator.errors import ClusterError, Denied, Missing, Refused, Unavailable
from sampler_operator.kube.api import KubeApi

FORBIDDEN = 'pods is forbidden: User "a" cannot list resource "pods" in API group ""'
FINALIZERS = "cannot set blockOwnerDeletion: you can't set finalizers on a"
UNKNOWN_KIND = "cannot set blockOwnerDeletion: cannot find RESTMapping for APIVersion a"


class Answering(HTTPServer):
    """Says the same to everybody."""

    status = 200
    body = b"{}"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["authorization"])
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
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


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>Please log in</html>", id="a page of a proxy"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"items": [', id="an answer that is cut off"),
        pytest.param(b'"\xff"', id="what is no text"),
    ],
)
async def test_an_answer_that_is_no_json_is_no_answer(server: Answering, body: bytes) -> None:
    server.body = body
    with pytest.raises(Unavailable, match="GET /api/v1/pods: "):
        await ask(server)


async def test_a_token_that_cannot_be_had_may_be_had_later(server: Answering) -> None:
    configuration = Configuration(host=f"http://127.0.0.1:{server.server_port}")

    def renew(_: Configuration) -> None:
        raise ConfigException("Token file exists but empty.")

    configuration.api_key["BearerToken"] = "Bearer old"
    configuration.refresh_api_key_hook = renew  # type: ignore[assignment]  # untyped
    api = KubeApi(configuration)
    try:
        with pytest.raises(Unavailable, match=r"GET /api/v1/pods: Token file exists but empty"):
            await api.call("GET", "/api/v1/pods")
        with pytest.raises(Unavailable, match="no credentials: Token file exists but empty"):
            await api.authorization()
        with pytest.raises(Unavailable, match="watch /api/v1/pods: Token file exists but empty"):
            await anext(api.watch("/api/v1/pods", {}))
    finally:
        await api.close()


# Counts its calls in a file, and numbers its tokens; the time of the first one is over.
PLUGIN = """
echo >> "$COUNT"
n=$(wc -l < "$COUNT")
case $n in 1) year=2020;; *) year=2100;; esac
printf '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
printf ' "status": {"token": "t%s", "expirationTimestamp": "%s-01-01T00:00:00Z"}}' "$n" "$year"
"""


async def test_a_credential_plugin_is_asked_again_when_its_token_runs_out(
    server: Answering, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "sh",
        "args": ["-c", PLUGIN],
        "env": [{"name": "COUNT", "value": str(count)}],
    }
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [
            {"name": "a", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "a", "user": {"exec": plugin}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    api = await KubeApi.connect(str(tmp_path / "kubeconfig"))
    try:
        await asyncio.gather(*(api.call("GET", "/api/v1/pods") for _ in range(3)))
        assert await api.authorization() == "Bearer t2"
    finally:
        await api.close()
    assert server.tokens == ["Bearer t2"] * 3
    assert len(count.read_text()) == 2


async def test_who_does_not_answer_may_be_asked_again(server: Answering) -> None:
    server.server_port = unused_port()
    with pytest.raises(Unavailable, match="GET /api/v1/pods: Cannot connect"):
        await ask(server)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
