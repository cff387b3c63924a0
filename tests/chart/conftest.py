"""Tests of this folder render the chart with the helm of ``make kube-tools``; no cluster needed."""

import os

import pytest
from tests.kube_tools import missing_tools


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    if not missing_tools(("helm",)):
        return
    told = "no helm: `make kube-tools` builds it"
    if "chart" in os.environ.get("REQUIRE_TIERS", "").split():
        pytest.fail(told, pytrace=False)
    pytest.skip(told)
