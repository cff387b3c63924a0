"""Tests of this folder run against a real Kubernetes API server; see ``tests.apiserver``."""

from collections.abc import Generator, Iterator

import pytest
from tests.apiserver import ApiServer, api_server, namespace, nodes
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess, operator_logs

__all__ = ["api_server", "namespace", "nodes"]


@pytest.fixture(scope="module")
def operator(api_server: ApiServer, nodes: tuple[str, ...]) -> Iterator[OperatorProcess]:
    """One for all namespaces, as long as the module's tests."""
    assert nodes
    with OperatorProcess(api_server) as running:
        yield running


@pytest.fixture
def fleet(api_server: ApiServer, namespace: str) -> LiveFleet:
    """Nothing is there yet."""
    return LiveFleet(api_server, namespace)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the operators that it may have used wrote."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {name}", text) for name, text in operator_logs()]
    return report
