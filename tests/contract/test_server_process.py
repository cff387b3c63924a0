"""A server process from the outside: ports, probes, tokens, drain, exit codes."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.raw_session import opened
from tests.servers import Port, ProgramServer, Server, TunedServer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from sampler_api.frames import HANDED_OVER, LENGTH
from sampler_core.bases import tokenizer_digest

SLOW = {"decode_rate": 100.0}
QUICK_DRAIN = {"listen_seconds": 0.3, "drain_seconds": 2.0}
TOKENS = "job:sample:s-token\ntrainer:publish:p-token\nops:admin:a-token\n"


@pytest.fixture(scope="module")
def server() -> Iterator[TunedServer]:
    with TunedServer() as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunedServer]:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(TOKENS)
    with TunedServer(serve={"token_file": str(path)}) as server:
        yield server


# -- both ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/startupz", "/livez", "/readyz", "/metrics", "/status"])
def test_the_management_port_answers(server: TunedServer, path: str) -> None:
    assert server.manage.get(path)[0] == 200


def test_metrics_count_what_was_generated(server: TunedServer) -> None:
    async def generate() -> None:
        async with opened(server.session_url, "counted") as session:
            await session.ended(await session.submit(0, max_tokens=8))

    asyncio.run(generate())
    _, text = server.manage.get("/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["sampler_generated_tokens_total"]) >= 8
    assert float(values['sampler_sequences_ended_total{reason="length"}']) >= 1


def test_the_tokenizer_files_match_their_digest(server: TunedServer) -> None:
    status, body = server.data.get("/v1/tokenizer")
    files = {name: base64.b64decode(data) for name, data in body["files"].items()}
    assert status == 200
    assert body["digest"] == tokenizer_digest(files)


def test_the_served_model_is_listed(server: TunedServer) -> None:
    status, body = server.data.get("/v1/models")
    assert (status, body["data"][0]["id"]) == (200, "sim")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/v1/nothing", 404, "not_found", id="an unknown path"),
        pytest.param("/v1/adapters", 400, "unsupported", id="adapters where there are none"),
    ],
)
def test_errors_have_one_shape(server: TunedServer, path: str, status: int, code: str) -> None:
    got, body = server.data.get(path)
    assert (got, body["error"]["code"]) == (status, code)
    assert set(body["error"]) == {"code", "message", "field", "retryable"}


def test_a_large_body_is_refused() -> None:
    with TunedServer(serve={"max_body_bytes": 1000}) as server:
        status, body = server.data.post("/v1/adapters", b"x" * 2000)
        assert (status, body["error"]["code"]) == (413, "payload_too_large")


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "status"),
    [
        pytest.param(None, 401, id="no token"),
        pytest.param("wrong", 401, id="a wrong token"),
        pytest.param("s-token", 200, id="a token that may sample"),
    ],
)
def test_sampling_needs_a_token(guarded: TunedServer, token: str | None, status: int) -> None:
    assert guarded.data.get("/v1/models", token=token)[0] == status


@pytest.mark.parametrize(
    ("token", "status"),
    [
        pytest.param(None, 401, id="no token"),
        pytest.param("s-token", 403, id="a token that may only sample"),
        pytest.param("p-token", 400, id="a token that may publish"),
    ],
)
def test_adapters_need_the_publish_role(
    guarded: TunedServer, token: str | None, status: int
) -> None:
    body = json.dumps({"config": {"r": 8}}).encode()
    assert guarded.data.post("/v1/adapters", body, token=token)[0] == status


def test_probes_need_no_token(guarded: TunedServer) -> None:
    assert guarded.manage.get("/livez")[0] == guarded.manage.get("/readyz")[0] == 200


async def test_a_session_needs_a_token(guarded: TunedServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(guarded.session_url, subprotocols=[Subprotocol("sampler.v1")])
    response = refused.value.response
    assert response.status_code == 401
    assert json.loads(response.body)["error"]["code"] == "unauthorized"
    async with opened(guarded.session_url, "allowed", token="s-token") as session:
        assert (await session.ended(await session.submit(0, max_tokens=2))).flag == LENGTH


# -- drain -----------------------------------------------------------------------------------------


@pytest.mark.rule("S12.7", only=("remote",))
async def test_a_drain_hands_every_token_over_and_exits_with_0() -> None:
    with TunedServer(latency=SLOW, serve=QUICK_DRAIN) as server:
        async with opened(server.session_url) as session:
            running = [await session.submit(h, seq=h, max_tokens=5000) for h in range(4)]
            await session.at_least(running[0], 3)
            server.send(signal.SIGTERM)
            for received in running:
                assert (await session.ended(received)).flag == HANDED_OVER
            assert session.is_draining
            again = await session.submit(9, seq=9, max_tokens=5)
            await session.ended(again)
            assert again.detail is not None
            assert again.detail.code == "draining"
        assert await asyncio.to_thread(server.wait, 10) == 0


@pytest.mark.rule("S12.7", only=("remote",))
async def test_handed_over_tokens_continue_elsewhere_exactly() -> None:
    flush = {"wait_seconds": 0.02}
    with (
        TunedServer(latency=SLOW, serve=QUICK_DRAIN, flush=flush) as server,
        TunedServer() as other,
    ):
        async with opened(server.session_url) as session, opened(other.session_url) as elsewhere:
            received = await session.at_least(await session.submit(0, max_tokens=200), 3)
            await asyncio.to_thread(server.manage.post, "/drain")
            await session.ended(received)
            rest = await elsewhere.submit(0, attempt=1, max_tokens=200, output=received.tokens)
            await elsewhere.ended(rest)
            whole = await elsewhere.ended(await elsewhere.submit(1, seq=1, max_tokens=200))
            assert received.tokens + rest.tokens == whole.tokens


@pytest.mark.rule("S12.7", only=("remote",))
async def test_while_draining_the_replica_is_not_ready_and_refuses_sessions() -> None:
    with TunedServer(serve={"listen_seconds": 5.0}) as server:
        assert server.manage.post("/drain")[0] == 202
        assert server.manage.get("/readyz")[0] == 503
        assert server.manage.get("/livez")[0] == 200
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.session_url, subprotocols=[Subprotocol("sampler.v1")])
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"]
        server.kill()


# -- start and end ---------------------------------------------------------------------------------


_SERVE = """
import sys
from pathlib import Path
from sampler_api.errors import ModelInvalid
from sampler_server.engines.sim import SimEngine
from sampler_server.serve import serve
from sampler_server.settings import ServeSettings

class Broken(SimEngine):
    def start(self, sink):
        raise ModelInvalid("config.json:\\nis missing")

class Dies(SimEngine):
    def _step(self):
        raise RuntimeError("no step")

port, log, engine = int(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
sys.exit(serve(ServeSettings(port=port, manage_port=0, termination_log=log), engine))
"""


def test_a_dead_engine_tells_its_clients_and_ends_the_process(tmp_path: Path) -> None:
    async def code_of(server: ProgramServer) -> str | None:
        async with opened(server.session_url) as session:
            got = await session.ended(await session.submit(0, max_tokens=8))
            return got.detail.code if got.detail else None

    with ProgramServer(
        sys.executable, "-c", _SERVE, "0", str(tmp_path / "log"), "Dies()"
    ) as server:
        assert asyncio.run(code_of(server)) == "engine_dead"
        assert server.wait(10) == 1
    assert (tmp_path / "log").read_text().startswith("EngineDead: ")


def _serve(port: int, log: Path, engine: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _SERVE, str(port), str(log), engine]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _serve(port, tmp_path / "log", "SimEngine()")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert str(port) in ended.stderr
    assert (tmp_path / "log").read_text() == ended.stderr


def test_an_engine_that_cannot_start_is_one_clear_line(tmp_path: Path) -> None:
    ended = _serve(0, tmp_path / "log", "Broken()")
    assert ended.returncode == 1
    assert ended.stderr == "ModelInvalid: config.json: is missing\n"
    assert (tmp_path / "log").read_text() == ended.stderr
    assert ended.stdout == ""


def test_two_engines_serve_and_a_dead_one_comes_back_alone() -> None:
    with Server("--engines", "2") as pod:
        first, second = pod.announced["engines"]
        os.kill(first["pid"], signal.SIGKILL)
        again: list[dict[str, Any]] = []
        watcher = threading.Thread(target=lambda: again.append(_status_of(first, {first["pid"]})))
        watcher.start()
        watcher.join(20)
        assert again[0]["pid"] != first["pid"]
        assert _status_of(second, set())["pid"] == second["pid"]
        assert pod.stop() == 0


def _status_of(engine: dict[str, Any], old: set[int]) -> dict[str, Any]:
    """``/status`` of an engine once another process than ``old`` answers."""
    while True:
        try:
            status: dict[str, Any] = Port(engine["manage_port"]).get("/status")[1]
        except OSError:
            continue
        if status["ready"] and status["pid"] not in old:
            return status
