"""Adapters that are published one after another at vLLM, many more than it keeps, while it samples.

The core of bench/adapter_churn.py; tests/contract/test_adapter_churn.py has it for torch.
"""

import asyncio

import httpx
import pytest
from bench.adapter_course import Course, publish_one_after_another
from bench.token_adapters import TokenAdapters
from tests.samplers import SamplerKinds, has_gpu
from tests.tiny_models import tiny_model

from sampler_api.names import ADAPTERS_PATH
from sampler_core.base import SamplerBase

ADAPTERS = 30
KEPT = 16
"""By a server that was not told how many."""


@pytest.mark.skipif(has_gpu(), reason="the tokens of these adapters are exact in float32 alone")
@pytest.mark.rule("S10.4", "S10.8", "S10.14", only=("remote-vllm",))
def test_every_sequence_is_of_the_adapter_that_its_name_meant(
    kinds: SamplerKinds, sampler: SamplerBase
) -> None:
    folder = kinds.adapter_root / "churn"
    course: Course = asyncio.run(
        publish_one_after_another(sampler, TokenAdapters(tiny_model()), folder, ADAPTERS)
    )
    assert course.wrong == []
    assert course.lost == []
    assert len(set(course.digests.values())) == ADAPTERS
    [replica] = course.replicas
    reply = httpx.get(f"http://{replica}{ADAPTERS_PATH}", trust_env=False)
    held = [each["digest"] for each in reply.json()["adapters"]]
    assert len(held) == KEPT
    assert {course.digests[number] for number in range(ADAPTERS)[-KEPT:]} == set(held)
