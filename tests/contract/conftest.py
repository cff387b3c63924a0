"""Fixtures of tests that run against every sampler; see ``tests.samplers`` and ``tests.rules``."""

from collections.abc import Iterator

import pytest
from tests.rules import rules_of
from tests.samplers import SAMPLERS, SamplerKinds, runs_here

from sampler_core.base import SamplerBase

RARE_KINDS = ("torch-tp2", "vllm-tp2")
"""Samplers that all tests run against with `make test-slow` and `make test-vllm-slow`, and
``QUICK_TESTS`` each time: what they share with another one is most of them."""
QUICK_TESTS = (
    "test_base_and_adapters_in_one_moving_batch_are_exact",
    "test_other_kinds_are_exact_or_refused",
    "test_a_name_that_is_bound_again_means_the_new_bytes",
)
"""In one file, so that one process makes the sampler."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``kind``, directly or through a fixture, once per sampler."""
    if "kind" in metafunc.fixturenames:
        _, only = rules_of(metafunc.definition.iter_markers("rule"))
        kinds = [kind for kind in only or SAMPLERS if runs_here(kind)]
        rare = () if metafunc.definition.originalname in QUICK_TESTS else RARE_KINDS
        marked = [pytest.param(k, marks=pytest.mark.slow if k in rare else ()) for k in kinds]
        metafunc.parametrize("kind", marked, scope="session")


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamplerKinds]:
    """Servers and samplers, started when first asked for."""
    pytest.importorskip("torch")
    with SamplerKinds(tmp_path_factory.mktemp("adapters")) as started:
        yield started


@pytest.fixture
def sampler(kinds: SamplerKinds, kind: str) -> SamplerBase:
    """The shared sampler of a kind: for tests that leave it as it is, but for names of
    adapters."""
    return kinds.shared(kind)


@pytest.fixture
def second_sampler(kinds: SamplerKinds, kind: str) -> Iterator[SamplerBase]:
    """Another one than ``sampler``, whose template the test may set; it stays open."""
    second = kinds.second(kind)
    yield second
    second._templates.put(None)


@pytest.fixture
def own_sampler(kinds: SamplerKinds, kind: str) -> Iterator[SamplerBase]:
    """A sampler that the test may close."""
    with kinds.open(kind) as made:
        yield made
