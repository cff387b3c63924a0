"""Servers without weights whose base changes, and calls that run meanwhile."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.proxy import wait_until
from tests.servers import Server

from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler
from sampler_server.engines.sim import base_digest as sim_digest

__all__ = [
    "INPUTS",
    "RATE",
    "SIM",
    "Calls",
    "bases_of",
    "begun",
    "made",
    "roots",
    "running",
    "server",
    "until",
]

RATE = 200
SIM = sim_digest()
INPUTS = [{"input_ids": [i + 1, 5, 9]} for i in range(4)]


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    (tmp_path / "roots").mkdir()
    return tmp_path / "roots"


@pytest.fixture
def server(roots: Path) -> Iterator[Server]:
    with made(roots) as server:
        yield server


def made(roots: Path, *options: str) -> Server:
    rate = ("--sim-decode-rate", str(RATE), "--sim-eos-rate", "0")
    return Server(*rate, "--adapter-root", str(roots), *options)


def until(holds: Callable[[], bool]) -> None:
    wait_until(holds, "what the test waits for")


def running(server: Server) -> int:
    return int(server.status()["load"].get("running", 0))


class Calls:
    """Something that takes its time, in a thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._found: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._call()
        except Exception as error:
            self._error = error

    def wait(self) -> Any:
        self._thread.join(50)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._found


def begun(sampler: RemoteSampler, *servers: Server, length: int = 300, **how: Any) -> Calls:
    call = Calls(lambda: sampler.sample(INPUTS, {"max_tokens": length, "logprobs": 1}, **how))
    until(lambda: sum(map(running, servers)) == len(INPUTS))
    return call


def bases_of(sequence: SampledSequence) -> list[str]:
    return [s.revision.base for s in sequence.segments if s.revision is not None]
