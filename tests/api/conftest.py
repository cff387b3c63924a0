"""Tests of this folder run against a real Kubernetes API server; see ``tests.apiserver``."""

from collections.abc import Generator

import pytest
from tests.apiserver import api_server, namespace, nodes
from tests.operator_process import operator_logs

__all__ = ["api_server", "namespace", "nodes"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the operators that it may have used wrote."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {name}", text) for name, text in operator_logs()]
    return report
