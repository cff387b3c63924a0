"""A fleet whose loop has ended."""

from collections.abc import AsyncIterator

import pytest
from tests.fake_replica import make_group

from sampler_api.errors import SamplerClosed, SamplerError
from sampler_client.discovery import Endpoint
from sampler_client.fleet import Fleet
from sampler_client.settings import ClientSettings


class BrokenDiscovery:
    description = "broken"
    fleet = ""
    certificate_name = ""

    async def watch(self) -> AsyncIterator[frozenset[Endpoint]]:
        raise RuntimeError("no such directory")
        yield frozenset()


def test_every_call_after_the_loop_failed_raises_and_none_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = Fleet(BrokenDiscovery(), ClientSettings())
    with pytest.raises(SamplerError):
        fleet.card()
    worker = fleet._worker
    assert worker is not None
    worker._thread.join()
    for _ in range(3):
        with pytest.raises(SamplerClosed, match="its loop failed"):
            fleet.submit([make_group()])
    assert "no such directory" in caplog.text
    fleet.close()
