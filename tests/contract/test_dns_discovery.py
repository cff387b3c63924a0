"""``dns://HOST``: real servers behind records that change, and what a client keeps of those that
leave."""

import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.apiserver_certificates import Authority
from tests.proxy import wait_until
from tests.servers import Server

from sampler_api.errors import InvalidRequest, NoReplica
from sampler_api.results import Responses
from sampler_client import RemoteSampler, SamplingParams
from sampler_client.discovery import Endpoint, discovery_of
from sampler_client.discovery.dns import DnsDiscovery, resolved
from sampler_client.fleet import Fleet
from sampler_client.settings import ClientSettings
from sampler_core.base import SamplerBase

SLOW = ("--sim-decode-rate", "40", "--log-level", "warning")
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Records:
    """A resolver of one host, for tests to change."""

    def __init__(self, *addresses: str) -> None:
        self.answer: Sequence[str] | Exception = addresses
        self.asked = 0
        self.is_answering = threading.Event()
        self.is_answering.set()

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        self.is_answering.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def discovery(records: Records, port: int = 8000) -> DnsDiscovery:
    return DnsDiscovery(f"dns://fleet:{port}", resolve=records, pause_seconds=0.02)


@contextmanager
def sampling(records: Records, port: int, **settings: Any) -> Iterator[SamplerBase]:
    """A client of what ``records`` say."""
    quick = {"tick": 0.05, "reconnect_delay": 0.02, "reconnect_delay_max": 0.1}
    with SamplerBase(Fleet(discovery(records, port), ClientSettings(**quick | settings))) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """Two servers at two addresses and one port, as pods have."""
    with Server(*SLOW) as first:
        port = str(first.data.number)
        here = ("--host", SECOND, "--port", port, "--manage-host", FIRST)
        with Server(*SLOW, *here) as second:
            yield first, second


def urls(endpoints: frozenset[Endpoint]) -> list[str]:
    return [endpoint.url for endpoint in sorted(endpoints)]


def ask(sampler: SamplerBase, prompts: int = 1, tokens: int = 2) -> Responses:
    inputs = [{"input_ids": [prompt]} for prompt in range(1, prompts + 1)]
    return sampler.sample(inputs, SamplingParams(max_tokens=tokens, seed=1))


def replicas_of(response: Responses) -> set[str]:
    return {segment.replica for s in response.sequences for segment in s.segments}


def spans(response: Responses) -> list[list[tuple[str, str]]]:
    """Where each sequence ran, and how it ended there."""
    return [[(span.replica, span.ended) for span in s.segments] for s in response.sequences]


def names(*servers: Server) -> list[str]:
    """As segments have them."""
    return [server.status()["replica"] for server in servers]


def is_sampling(server: Server) -> bool:
    """Four streams run there and have tokens."""
    load = server.status()["load"]
    return bool(load["running"] == 4 and load["steps"] > 10)


@contextmanager
def running(call: Callable[[], Responses]) -> Iterator[list[Responses]]:
    """``call`` in a thread; the list has its answer at the end of the block."""
    answers: list[Responses] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    yield answers
    thread.join(30)
    assert answers


# What the records say


async def test_each_address_is_a_replica_and_changes_are_followed() -> None:
    records = Records("10.0.0.1", "10.0.0.2")
    async with aclosing(discovery(records).watch()) as sets:
        assert await anext(sets) == {
            Endpoint("http://10.0.0.1:8000", True),
            Endpoint("http://10.0.0.2:8000", True),
        }
        records.answer = ["fd00::1"]
        assert urls(await anext(sets)) == ["http://[fd00::1]:8000"]


async def test_a_resolver_that_fails_or_hangs_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sampler_client.discovery.dns._ANSWER_SECONDS", 0.02)
    records = Records("10.0.0.1")
    found = discovery(records)
    async with aclosing(found.watch()) as sets:
        await anext(sets)
        records.answer = NO_SUCH_NAME
        before = records.asked
        records.is_answering.clear()

        def follow() -> None:
            wait_until(lambda: "does not answer" in found.description, "it hangs")
            records.is_answering.set()
            wait_until(lambda: "not known" in found.description, "it fails")
            records.answer = ["10.0.0.2"]

        following = threading.Thread(target=follow)
        following.start()
        # Nothing came between: neither an empty set nor the old one again.
        assert urls(await anext(sets)) == ["http://10.0.0.2:8000"]
        following.join()
        assert found.description == "dns://fleet:8000"
        assert records.asked > before


async def test_a_resolver_that_hangs_is_not_asked_again_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sampler_client.discovery.dns._ANSWER_SECONDS", 0.01)
    records = Records("10.0.0.1")
    records.is_answering.clear()
    found = discovery(records)._records
    for _ in range(5):
        assert await found.look() is None
    assert records.asked == 1
    records.is_answering.set()
    monkeypatch.setattr("sampler_client.discovery.dns._ANSWER_SECONDS", 10)
    assert await found.look() is not None


def test_of_both_families_one_is_taken() -> None:
    addresses = resolved("localhost", 80)
    assert addresses == ["127.0.0.1"]


@pytest.mark.parametrize(
    "target",
    ["dns://", "dns://:80", "dns://a b", "dns://a:x", "dns://a:0", "dns://a:70000", "dns://a/b"],
)
def test_what_names_no_host_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match="must be dns://HOST") as raised:
        RemoteSampler(target)
    assert raised.value.field == "endpoints"


def test_the_port_is_that_of_pods_unless_it_is_given() -> None:
    assert discovery_of("dns://a.b.svc.")._records.port == 8000  # type: ignore[attr-defined]
    assert discovery_of("dns://a:81")._records.port == 81  # type: ignore[attr-defined]


def test_a_name_without_addresses_is_told() -> None:
    records = Records()
    records.answer = NO_SUCH_NAME
    with (
        sampling(records, 8000, first_reply_timeout=0.2) as sampler,
        pytest.raises(NoReplica, match=r"no replica of dns://fleet:8000 \(fleet: Name or"),
    ):
        ask(sampler)


# Sampling


def test_a_real_name_is_sampled_from() -> None:
    with Server() as server, RemoteSampler(f"dns://localhost:{server.data.number}") as sampler:
        assert replicas_of(ask(sampler)) == {server.name}


def test_all_engines_of_a_pod_with_one_record_are_used() -> None:
    with Server("--engines", "2", *SLOW) as pod:
        ports = [engine["port"] for engine in pod.announced["engines"]]
        with sampling(Records(FIRST), ports[0]) as sampler:
            wait_until(lambda: len(replicas_of(ask(sampler, 8))) == 2, "both engines answer", 10)
        # The second alone names the first as well.
        with sampling(Records(FIRST), ports[1]) as sampler:
            wait_until(lambda: len(replicas_of(ask(sampler, 8))) == 2, "both engines answer", 10)


def test_streams_of_a_record_that_leaves_end_where_they_run_and_nothing_new_goes_there(
    pair: tuple[Server, Server],
) -> None:
    first, second = pair
    here, there = names(*pair)
    records = Records(FIRST)
    with sampling(records, first.data.number) as sampler:
        with running(lambda: ask(sampler, 4, tokens=60)) as answers:
            wait_until(lambda: is_sampling(first), "they run")
            records.answer = [SECOND]
            wait_until(lambda: second.status()["sessions"] == 1, "the other one is found")
            assert replicas_of(ask(sampler, 8)) == {there}
            assert first.status()["load"]["running"] == 4
        assert spans(answers[0]) == [[(here, "finished")]] * 4
        wait_until(lambda: first.status()["sessions"] == 0, "the session has ended")
        records.answer = [FIRST]
        wait_until(lambda: replicas_of(ask(sampler)) == {here}, "it is used again")


def test_a_record_that_comes_back_while_streams_run_takes_work_on_the_same_session(
    pair: tuple[Server, Server],
) -> None:
    first, _ = pair
    here, there = names(*pair)
    records = Records(FIRST)
    with sampling(records, first.data.number) as sampler:
        with running(lambda: ask(sampler, 4, tokens=100)) as answers:
            wait_until(lambda: is_sampling(first), "they run")
            records.answer = [SECOND]
            wait_until(lambda: replicas_of(ask(sampler)) == {there}, "nothing new goes there")
            records.answer = [FIRST]
            wait_until(lambda: replicas_of(ask(sampler)) == {here}, "new work goes there")
            assert first.status()["load"]["running"] == 4
        assert spans(answers[0]) == [[(here, "finished")]] * 4


def test_a_replica_that_leaves_and_then_drains_hands_its_streams_over(
    pair: tuple[Server, Server],
) -> None:
    first, second = pair
    here, there = names(*pair)
    records = Records(FIRST)
    with sampling(records, first.data.number) as sampler:
        with running(lambda: ask(sampler, 4, tokens=60)) as answers:
            wait_until(lambda: is_sampling(first), "they run")
            records.answer = [SECOND]
            wait_until(lambda: second.status()["sessions"] == 1, "the other one is found")
            assert first.stop() == 0
        assert spans(answers[0]) == [[(here, "drained"), (there, "finished")]] * 4


def test_a_replica_that_leaves_and_dies_loses_nothing(pair: tuple[Server, Server]) -> None:
    first, second = pair
    records = Records(FIRST)
    with sampling(records, first.data.number) as sampler:
        with running(lambda: ask(sampler, 4, tokens=60)) as answers:
            wait_until(lambda: is_sampling(first), "they run")
            records.answer = [SECOND]
            wait_until(lambda: second.status()["sessions"] == 1, "the other one is found")
            first.kill()
        assert [len(sequence.tokens) for sequence in answers[0].sequences] == [60] * 4


# Whose replicas they are


@contextmanager
def of_fleet(monkeypatch: pytest.MonkeyPatch, fleet: str, *options: str) -> Iterator[Server]:
    """A server whose pod belongs to ``namespace/name/uid``."""
    variables = ("SAMPLER_POD_NAMESPACE", "SAMPLER_FLEET_NAME", "SAMPLER_FLEET_UID")
    with monkeypatch.context() as patch:
        for variable, value in zip(variables, fleet.split("/"), strict=True):
            patch.setenv(variable, value)
        with Server(*options) as server:
            yield server


def test_an_address_that_another_fleet_has_now_is_left_alone_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sampler_client")
    with of_fleet(monkeypatch, "rl/policy/u-1") as ours:
        port = str(ours.data.number)
        here = ("--host", SECOND, "--port", port, "--manage-host", FIRST)
        records = Records(FIRST)
        with sampling(records, ours.data.number) as sampler:
            name = replicas_of(ask(sampler))
            with of_fleet(monkeypatch, "rl/judge/u-2", *here):
                records.answer = [FIRST, SECOND]
                told = f"http://{SECOND}:{port}: belongs to fleet rl/judge, not rl/policy"
                wait_until(lambda: told in caplog.text, "it is told")
                assert replicas_of(ask(sampler, 8)) == name
            assert caplog.text.count(told) == 1
            # It is tried again: the address may become ours, also of a fleet that was made anew.
            with of_fleet(monkeypatch, "rl/policy/u-3", *here):
                wait_until(lambda: len(replicas_of(ask(sampler, 8))) == 2, "both are used")


# TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_certificates_carry_the_name_that_was_looked_up(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.server("replica", ("DNS:localhost",))
    files = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    trust = str(authority.own.certificate)
    with Server(*files) as server:
        port = server.data.number
        with RemoteSampler(f"dns://localhost:{port}", ca_file=trust) as sampler:
            assert replicas_of(ask(sampler)) == {server.name}
            # Over plain HTTP beside the session.
            said = [{"role": "user", "content": "hi"}]
            assert sampler.sample({"messages": said}, {"max_tokens": 2}).sequences
        with (
            RemoteSampler(
                f"https://127.0.0.1:{port}", ca_file=trust, first_reply_timeout=0.2, tick=0.05
            ) as sampler,
            pytest.raises(NoReplica, match="certificate verify failed"),
        ):
            ask(sampler)
