"""What the README says of an engine is what the engine says of itself."""

from collections.abc import Callable

import pytest
from tests.engine_record import TRAITS, read_record

from sampler_core.base import SamplerBase


def test_an_engine_says_of_itself_what_is_written_down(
    sampler: SamplerBase,
    kind: str,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    card = sampler._backend.card()
    traits = {
        "logprobs_modes": list(card.logprobs_modes),
        "is_reproducible": card.is_reproducible,
    }
    record_property(TRAITS, traits)
    if not request.config.pluginmanager.has_plugin("tests.engine_record"):
        assert read_record()[kind]["traits"] == traits
