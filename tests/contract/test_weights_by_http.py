"""Base weights that change under a server: its management port, and plain HTTP requests. On the
engine without weights."""

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests import weights_server
from tests.raw_bases import SHARDS, write_base
from tests.servers import Port, Server
from tests.updatable import ask_for
from tests.weights_server import INPUTS, SIM, Calls, bases_of, begun, made, running, until

from sampler_api.errors import (
    Busy,
    Forbidden,
    InvalidRequest,
    NoReplica,
    ProgressTimeout,
    SamplerError,
    Unsupported,
    WeightsInvalid,
)
from sampler_api.fleet import AdaptersConfig
from sampler_client import RemoteSampler
from sampler_core.bases import base_digest

pytestmark = pytest.mark.long

roots, server = weights_server.roots, weights_server.server


# -- plain HTTP --------------------------------------------------------------------------------


def completion(server: Server, length: int) -> httpx.Response:
    body = {"model": "sim", "prompt": [[1, 2, 3]], "max_tokens": length}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=50)


def test_plain_http_finishes_or_waits(server: Server, roots: Path) -> None:
    before = Calls(lambda: completion(server, 800))
    until(lambda: running(server) == 1)
    updating = Calls(lambda: ask_for(server, write_base(roots / "b", 1), in_flight="finish"))
    until(lambda: is_pending(server))
    after = Calls(lambda: completion(server, 5))
    assert before.wait().status_code == 200
    updating.wait()
    assert after.wait().status_code == 200


def is_pending(server: Server) -> bool:
    return "replace weights" in server.status()["operations"]


@pytest.mark.parametrize("in_flight", ["abort", "continue"])
def test_plain_http_cannot_go_on(server: Server, roots: Path, in_flight: str) -> None:
    call = Calls(lambda: completion(server, 3000))
    until(lambda: running(server) == 1)
    ask_for(server, write_base(roots / "b", 1), in_flight=in_flight)
    answer = call.wait()
    assert answer.status_code == 410
    assert answer.json()["error"]["code"] == "revision_gone"
    assert completion(server, 5).status_code == 200


# -- the management port -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        pytest.param({}, InvalidRequest, None, id="nothing"),
        pytest.param({"directory": 7}, InvalidRequest, "directory", id="a number"),
        pytest.param({"directory": "b"}, WeightsInvalid, "directory", id="a relative path"),
        pytest.param({"directory": "hf://a/b"}, Unsupported, "directory", id="a hub"),
        pytest.param({"directory": "/etc"}, WeightsInvalid, "directory", id="outside the roots"),
        pytest.param(
            {"directory": "/b", "in_flight": "x"}, InvalidRequest, "in_flight", id="a policy"
        ),
        pytest.param({"directory": "/b", "force": True}, InvalidRequest, None, id="unknown"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    server: Server, body: dict[str, Any], error: type[SamplerError], field: str | None
) -> None:
    status, answer = server.manage.post("/weights", json.dumps(body).encode())
    assert (status, answer["error"]["code"]) == (400, error.code)
    assert answer["error"]["field"] == field
    assert server.status()["card"].base == SIM


def test_a_body_that_is_too_large_or_no_json_is_refused(server: Server) -> None:
    assert server.manage.post("/weights", b"{")[0] == 400
    assert server.manage.post("/weights", b"[]")[0] == 400
    assert server.manage.post("/weights", b" " * (1 << 20))[0] == 413


def test_a_damaged_directory_disturbs_nobody(server: Server, roots: Path) -> None:
    new = write_base(roots / "b", 1)
    (new / SHARDS[0]).write_bytes(b"x" * 100)
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server, length=100)
        with pytest.raises(WeightsInvalid, match=SHARDS[0]):
            ask_for(server, new, in_flight="abort")
        for response in call.wait():
            assert [s.ended for s in response.sequences[0].segments] == ["finished"]


def test_the_wait_for_what_runs_can_be_bounded(server: Server, roots: Path) -> None:
    new = write_base(roots / "b", 1)
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server, length=1200)
        with pytest.raises(ProgressTimeout):
            ask_for(server, new, finish_seconds=0)
        updating = Calls(lambda: ask_for(server, new))
        until(lambda: is_pending(server))
        with pytest.raises(NoReplica), RemoteSampler(server.url, first_reply_timeout=1) as other:
            other.sample(INPUTS[0], {"max_tokens": 1})
        with pytest.raises(Busy):
            ask_for(server, new)
        for response in call.wait():
            (sequence,) = response.sequences
            assert (len(sequence.tokens), set(bases_of(sequence))) == (1200, {SIM})
        assert updating.wait() == base_digest(new)


def test_from_another_machine_it_takes_an_admin(roots: Path, tmp_path: Path) -> None:
    address = _own_address()
    tokens = tmp_path / "tokens"
    tokens.write_text("a:publish:p\nb:admin:q\n")
    with made(roots, "--host", "*", "--token-file", str(tokens)) as server:
        new = write_base(roots / "b", 1)
        url = f"http://{address}:{server.manage.number}/weights"
        body = {"directory": str(new)}
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer p"}, 403),
            ({"authorization": "Bearer q"}, 200),
        ):
            assert httpx.post(url, json=body, headers=headers, timeout=20).status_code == status
    with made(roots, "--host", "*") as server:
        url = f"http://{address}:{server.manage.number}/weights"
        answer = httpx.post(url, json=body, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, Forbidden.code)


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: it tells which address would be used.
        probe.connect(("192.0.2.1", 9))
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_a_base_that_was_asked_for_is_not_replaced(roots: Path) -> None:
    with made(roots, "--model-digest", SIM) as server:
        with pytest.raises(WeightsInvalid, match="--model-digest"):
            ask_for(server, write_base(roots / "b", 1))
        assert server.status()["card"].base == SIM


def test_a_replica_keeps_to_the_base_of_its_fleet(
    roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    config = tmp_path / "config" / "adapters.json"
    new = write_base(roots / "b", 1)
    config.write_bytes(msgspec.json.encode(AdaptersConfig(bases={"t": SIM})))
    monkeypatch.setenv("SAMPLER_TEMPLATE_HASH", "t")
    with made(roots, "--adapters-config", str(config.parent)) as server:
        with pytest.raises(WeightsInvalid, match="the fleet decides on its base"):
            ask_for(server, new)
        assert server.manage.get("/readyz")[0] == 200


def test_all_engines_of_a_pod_follow(roots: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = ("--adapter-store", str(tmp_path / "store"))
    with made(roots, "--engines", "2", *store) as pod:
        until(lambda: pod.manage.get("/readyz")[0] == 200)
        base = ask_for(pod, write_base(roots / "b", 1))
        assert pod.status()["card"].base == base
        for engine in pod.announced["engines"]:
            assert Port(engine["manage_port"]).get("/status")[1]["card"]["base"] == base
        with pytest.raises(WeightsInvalid, match=r"engine 0 of 2: .*does not exist"):
            ask_for(pod, roots / "nothing")
        assert pod.manage.get("/readyz")[0] == 200
