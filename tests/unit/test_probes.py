"""Probes of the operator: they tell whether its event loop turns, from a thread of their own."""

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from sampler_operator.errors import OperatorError
from sampler_operator.kube.probes import Health, serve_probes
from sampler_operator.metrics import OperatorMetrics


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


@pytest.fixture
def port(health: Health) -> int:
    registry = CollectorRegistry()
    OperatorMetrics(registry)
    return serve_probes(0, health, registry)


def answer(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=3) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_an_operator_is_alive_from_the_start_and_ready_when_it_knows_its_cluster(
    port: int, health: Health
) -> None:
    assert answer(port, "/healthz") == (200, "ok\n")
    assert answer(port, "/readyz") == (503, "the cluster has not been listed yet\n")
    health.is_ready = True
    assert answer(port, "/readyz") == (200, "ok\n")


def test_an_operator_whose_loop_hangs_is_not_alive_until_it_turns_again(
    port: int, health: Health, clock: Clock
) -> None:
    clock.now += 30
    assert answer(port, "/healthz")[0] == 200
    clock.now += 1
    assert answer(port, "/healthz") == (503, "the event loop has not turned for 31 s\n")
    health.beat()
    assert answer(port, "/healthz")[0] == 200


def test_prometheus_has_its_page(port: int) -> None:
    status, page = answer(port, "/metrics")
    assert status == 200
    assert "sampler_operator_queue_depth 0.0" in page


def test_a_port_that_is_taken_is_an_error_that_names_the_option(port: int, health: Health) -> None:
    with pytest.raises(OperatorError, match=rf"--metrics-port {port}: Address already in use"):
        serve_probes(port, health, CollectorRegistry())
