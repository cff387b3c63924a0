"""What tests ask a sim server over plain HTTP, and what it has to answer."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from tests.proxy import wait_until
from tests.servers import Server

from sampler_core.seeds import child_seed
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.tokens import sim_sequence

__all__ = ["BASE", "UNKNOWN", "events", "reference", "running", "sample", "text_of", "wait"]

BASE = base_digest()
UNKNOWN = "sha256:" + "0" * 64


def sample(client: httpx.Client, inputs: Any, **fields: Any) -> httpx.Response:
    return client.post("/v1/sample", json={"inputs": inputs, **fields})


def reference(prompt: list[int], index: int, child: int, length: int, seed: int = 5) -> list[int]:
    return sim_sequence(prompt, child_seed(seed, index, child), BASE, None, length)[0]


def text_of(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def running(server: Server) -> int:
    load = server.status()["load"]
    return int(load["running"] + load["waiting"])


def wait(condition: Callable[[], bool]) -> None:
    wait_until(condition, "what the test waits for", 10)
