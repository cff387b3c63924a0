"""Registering adapters at a fleet of real servers, some of which do not answer."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.proxy import FaultProxy, wait_until
from tests.raw_adapters import adapter_config, write_adapter
from tests.servers import Server

from sampler_api.errors import NoReplica, SamplerClosed, SamplerError
from sampler_client import RemoteSampler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(f"--adapter-root={tmp_path}", "--log-level=warning") as server:
        yield server


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    return str(write_adapter(tmp_path / "policy"))


def open_proxies(sampler: RemoteSampler, *proxies: FaultProxy) -> None:
    """Wait until there is a session through each."""
    sampler.sample({"input_ids": [5]}, {"max_tokens": 1})
    wait_until(lambda: all(proxy.counts["accepted"] for proxy in proxies), "sessions")


def test_a_frozen_replica_does_not_hold_an_adapter_up(server: Server, adapter: str) -> None:
    with (
        FaultProxy(server.data.number) as proxy,
        RemoteSampler(
            f"{server.url},{proxy.url}", silence_timeout=600.0, straggler_timeout=0.2
        ) as sampler,
    ):
        open_proxies(sampler, proxy)
        proxy.stall()
        bound = sampler.add_adapter_to_model("policy", adapter)
        proxy.flow()
        response = sampler.sample({"input_ids": [5]}, {"max_tokens": 2}, "policy")
        revision = response[0].sequences[0].revision
        assert revision is not None
        assert revision.adapter == bound.digest


def test_a_fleet_that_is_cut_off_is_named(server: Server, adapter: str) -> None:
    with RemoteSampler(server.url, reconnect_delay=0.05) as sampler:
        sampler.sample({"input_ids": [5]}, {"max_tokens": 1})
        server.kill()
        for source in (adapter, adapter_config()):
            error: SamplerError | None = None

            def is_told(source: object = source) -> bool:
                nonlocal error
                try:
                    sampler.add_adapter_to_model("policy", source)
                except SamplerError as caught:
                    error = caught
                return "is connected" in str(error)

            wait_until(is_told, "the session is known to be lost")
            assert isinstance(error, NoReplica)
            assert f"no replica of {server.url} is connected" in str(error)
        server.start()
        wait_until(lambda: is_taken(sampler, adapter), "the adapter is taken")


def is_taken(sampler: RemoteSampler, adapter: str) -> bool:
    try:
        sampler.add_adapter_to_model("policy", adapter)
    except NoReplica:
        return False
    return True


def test_closing_ends_a_registration_that_waits(server: Server, adapter: str) -> None:
    with FaultProxy(server.data.number) as proxy:
        sampler = RemoteSampler(proxy.url, silence_timeout=600.0)
        open_proxies(sampler, proxy)
        proxy.stall()
        raised: list[BaseException] = []

        def register() -> None:
            try:
                sampler.add_adapter_to_model("policy", adapter)
            except BaseException as error:
                raised.append(error)

        caller = threading.Thread(target=register)
        caller.start()
        wait_until(lambda: proxy.counts["accepted"] >= 2, "the request is on its way")
        sampler.close()
        caller.join(20)
        assert [type(error) for error in raised] == [SamplerClosed]
        proxy.flow()
        with pytest.raises(SamplerClosed):
            sampler.add_adapter_to_model("policy", adapter)
