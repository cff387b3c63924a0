"""A pod with several engines behind one management port."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.proxy import wait_until
from tests.raw_adapters import write_adapter
from tests.raw_session import opened
from tests.servers import Port, Server

from sampler_api.frames import HANDED_OVER
from sampler_core.adapters import snapshot_adapter


def until(holds: Callable[[], bool]) -> None:
    wait_until(holds, "what the test waits for")


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("SAMPLER_POD_NAME", "policy-0")
    (tmp_path / "store").mkdir()
    options = ("--adapter-root", str(tmp_path), "--adapter-store", str(tmp_path / "store"))
    limit = ("--adapter-store-bytes", "1000001")
    with Server("--engines", "2", "--sim-decode-rate", "100", *options, *limit) as pod:
        yield pod


def test_one_port_speaks_for_all_engines(pod: Server, tmp_path: Path) -> None:
    first, second = pod.announced["engines"]
    assert pod.manage.number not in (first["manage_port"], second["manage_port"])
    for path in ("/startupz", "/readyz", "/livez"):
        assert pod.manage.get(path)[0] == 200
    status = pod.status()
    assert (status["ready"], status["replica"]) == (True, "policy-0")
    assert status["pid"] not in (first["pid"], second["pid"])
    one = Port(first["manage_port"]).get("/status")[1]
    assert one["replica"] == f"policy-0:{first['port']}"
    text = pod.manage.get("/metrics")[1]
    assert 'sampler_slots{engine="0"}' in text
    assert 'sampler_slots{engine="1"}' in text

    adapter = write_adapter(tmp_path / "a", 1)
    digest = snapshot_adapter(adapter).digest
    body = f'{{"digest": "{digest}", "path": "{adapter}"}}'.encode()
    for engine, held in ((first, ()), (second, (digest,))):
        assert Port(engine["port"]).post("/v1/adapters", body)[0] == 201
        assert pod.status()["held"] == held


def test_engines_share_what_copies_of_adapters_may_take(pod: Server) -> None:
    for engine in pod.announced["engines"]:
        words = Path(f"/proc/{engine['pid']}/cmdline").read_text().split("\0")
        # The last of a repeated option counts.
        last = max(n for n, word in enumerate(words) if word == "--adapter-store-bytes")
        assert words[last + 1] == "500000"


def test_a_dead_engine_makes_the_pod_unready_and_costs_it_nothing_else(pod: Server) -> None:
    first, second = pod.announced["engines"]
    incarnation = pod.status()["incarnation"]
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: pod.manage.get("/readyz")[0] == 503)
    assert "engine 0" in pod.manage.get("/readyz")[1]["reason"]
    until(lambda: _is_alive_and_ready(pod))
    assert pod.status()["incarnation"] != incarnation
    assert Port(second["manage_port"]).get("/status")[1]["pid"] == second["pid"]


def _is_alive_and_ready(pod: Server) -> bool:
    # Kubernetes would kill the pod, and with it the engine that serves.
    assert pod.manage.get("/livez")[0] == 200
    return pod.manage.get("/readyz")[0] == 200


def test_an_engine_that_hangs_is_no_life(pod: Server) -> None:
    process: int = pod.announced["engines"][1]["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        status, answer = pod.manage.get("/livez")
        assert (status, answer["reason"]) == (503, "engine 1 does not answer")
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_drain_of_the_pod_drains_its_engines(pod: Server) -> None:
    url: Any = pod.announced["engines"][1]["port"]
    async with opened(f"ws://127.0.0.1:{url}/v1/session") as session:
        received = await session.at_least(await session.submit(0, max_tokens=5000), 3)
        assert pod.manage.post("/drain")[0] == 202
        assert (await session.ended(received)).flag == HANDED_OVER
    assert pod.wait(15) == 0
