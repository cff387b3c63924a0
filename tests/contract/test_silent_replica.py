"""A replica that says nothing any more: its sequences do not wait for it twice."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
from tests.proxy import FaultProxy, wait_until
from tests.servers import Server

from sampler_client import RemoteSampler, SamplingParams, connection

CONNECT_SECONDS: Final = 100.0
"""The test would not outlive an attempt to connect that takes so long."""


def has_begun(server: Server) -> bool:
    """Its sequences have more tokens than are kept back."""
    load = server.status()["load"]
    return bool(load["running"] and load["kv_used"] > 40 * load["running"])


def test_sequences_move_before_an_attempt_to_connect_has_had_all_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_SILENT_PART", 0.5 / CONNECT_SECONDS)
    options = ("--sim-decode-rate", "50")
    with (
        Server(*options) as silent,
        Server(*options) as other,
        FaultProxy(silent.data.number) as proxy,
        ThreadPoolExecutor(1) as pool,
        RemoteSampler(
            f"{proxy.url},{other.url}",
            silence_timeout=0.5,
            tick=0.1,
            connect_timeout=CONNECT_SECONDS,
        ) as sampler,
    ):
        inputs = [{"input_ids": [number, 7]} for number in range(16)]
        params = SamplingParams(max_tokens=300, seed=1)
        sampling = pool.submit(sampler.sample, inputs, params)
        wait_until(lambda: has_begun(silent), "it has work")
        proxy.stall()
        sequences = sampling.result().sequences
    moved = [s for sequence in sequences for s in sequence.segments if s.ended == "lost"]
    assert moved
