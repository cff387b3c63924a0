"""Servers of the sim engine that the tests of a file share."""

from collections.abc import Iterator

import httpx
import pytest
from tests.servers import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(renders=True) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    with Server("--sim-decode-rate", "50", "--drain-seconds", "0.5") as started:
        yield started
