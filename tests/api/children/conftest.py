"""An operator with a short resync: a field over which it would quarrel with somebody shows."""

from collections.abc import Iterator

import pytest
from tests.apiserver import ApiServer
from tests.every_child import EVERY_CHILD
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess


@pytest.fixture(scope="module", autouse=True)
def operator(api_server: ApiServer, nodes: tuple[str, ...]) -> Iterator[OperatorProcess]:
    """It looks at everything each second."""
    assert nodes
    with OperatorProcess(api_server, "--resync-seconds", "1") as running:
        yield running


@pytest.fixture
def fleet(api_server: ApiServer, namespace: str) -> LiveFleet:
    """Up to date, with a child of every kind that needs no other software."""
    made = LiveFleet(api_server, namespace)
    made.create(EVERY_CHILD)
    made.settle()
    return made
