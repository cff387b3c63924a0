"""A cluster in memory with one SamplerDeployment, and operators on it."""

from collections.abc import AsyncIterator

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    SETTINGS,
    FakeCluster,
    FakeReplicas,
    Operator,
)
from tests.reconciler_world import (
    Start,
)

from sampler_operator.plan import BuildSettings


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.put_sd(fleet())
    return made


@pytest.fixture
def replicas() -> FakeReplicas:
    return FakeReplicas()


@pytest.fixture
async def start(cluster: FakeCluster, replicas: FakeReplicas) -> AsyncIterator[Start]:
    """Starts operators, one after the other or side by side, and ends them."""
    started: list[Operator] = []

    def make(settings: BuildSettings = SETTINGS) -> Operator:
        started.append(Operator(cluster, replicas, settings=settings))
        return started[-1]

    yield make
    for operator in started:
        await operator.close()
