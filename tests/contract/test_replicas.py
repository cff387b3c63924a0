"""A client of real servers that are restarted, drained, cut off, too small, or always failing."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.proxy import FaultProxy, wait_until
from tests.servers import Server

from sampler_api.errors import PoisonRequest
from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler, SamplingParams
from sampler_core.base import SamplerBase
from sampler_core.seeds import child_seed
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.tokens import sim_sequence

SEED = 3
TOKENS = 120
SLOW = ("--sim-decode-rate", "60", "--log-level", "warning")
PROMPTS = [[1], [2], [3], [4]]


def whole(prompt: list[int], index: int, length: int = TOKENS, child: int = 0) -> list[int]:
    """What an undisturbed server answers."""
    return sim_sequence(prompt, child_seed(SEED, index, child), base_digest(), None, length)[0]


def client_of(*urls: str) -> RemoteSampler:
    return RemoteSampler(",".join(urls), tick=0.1, reconnect_delay=0.05, reconnect_delay_max=0.2)


def load(server: Server, what: str) -> int:
    return int(server.status()["load"][what])


@contextmanager
def disturbed(
    disturb: Callable[[], object], sampler: SamplerBase, *servers: Server
) -> Iterator[list[SampledSequence]]:
    """The prompts sampled, with ``disturb`` called once tokens of all of them flow."""
    done: list[SampledSequence] = []

    def sample() -> None:
        params = SamplingParams(max_tokens=TOKENS, seed=SEED, logprobs=1)
        answer = sampler.sample([{"input_ids": prompt} for prompt in PROMPTS], params)
        done.extend(answer.sequences)

    caller = threading.Thread(target=sample)
    caller.start()
    wait_until(lambda: sum(load(each, "running") for each in servers) == len(PROMPTS), "all run")
    # By then some frames of tokens have arrived.
    enough = [load(each, "steps") + 45 for each in servers]
    wait_until(
        lambda: any(load(each, "steps") >= n for each, n in zip(servers, enough, strict=True)),
        "tokens flow",
    )
    disturb()
    caller.join(30)
    assert [sequence.tokens for sequence in done] == [
        whole(prompt, index) for index, prompt in enumerate(PROMPTS)
    ]
    assert all(sequence.stop_reason == "length" for sequence in done)
    yield done


def spans(sequence: SampledSequence) -> list[str]:
    return [segment.ended for segment in sequence.segments]


@pytest.mark.rule("S12.1", "S12.3", only=("remote",))
def test_streams_of_a_restarted_replica_begin_a_new_segment() -> None:
    with Server(*SLOW) as server, client_of(server.url) as sampler:

        def restart() -> None:
            server.kill()
            server.start()

        with disturbed(restart, sampler, server) as sequences:
            for sequence in sequences:
                assert spans(sequence) == ["lost", "finished"]
                first, second = sequence.segments
                assert 0 < first.end == second.start
                assert first.replica == second.replica == server.name


@pytest.mark.rule("S12.1", only=("remote",))
def test_a_cut_connection_costs_nothing_while_its_replica_lives() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(Server(*SLOW))
        proxy = stack.enter_context(FaultProxy(server.data.number))
        sampler = stack.enter_context(client_of(proxy.url))
        with disturbed(proxy.cut, sampler, server) as sequences:
            assert [spans(sequence) for sequence in sequences] == [["finished"]] * len(PROMPTS)


@pytest.mark.rule("S12.1", "S12.7", only=("remote",))
def test_streams_of_a_draining_replica_continue_on_the_other() -> None:
    with Server(*SLOW) as first, Server(*SLOW) as second, ExitStack() as stack:
        sampler = stack.enter_context(client_of(first.url, second.url))
        leaving: list[Server] = []

        def drain() -> None:
            leaving.append(
                max(first, second, key=lambda server: server.status()["load"]["running"])
            )
            leaving[0].send(signal.SIGTERM)

        with disturbed(drain, sampler, first, second) as sequences:
            (left,) = leaving
            (other,) = {first, second} - {left}
            ways = [[(s.replica, s.ended) for s in sequence.segments] for sequence in sequences]
            moved = [(left.name, "drained"), (other.name, "finished")]
            assert moved in ways
            assert [way for way in ways if way not in (moved, [(other.name, "finished")])] == []
        assert left.wait(20) == 0


@pytest.mark.rule("S12.6", only=("remote",))
def test_an_input_larger_than_all_credit_is_served_as_one() -> None:
    with Server("--max-num-seqs", "2") as server, client_of(server.url) as sampler:
        params = SamplingParams(max_tokens=3, seed=SEED)
        (response,) = sampler.sample({"input_ids": [9]}, params, num_samples=40)
        assert [s.tokens for s in response.sequences] == [
            whole([9], 0, 3, child) for child in range(40)
        ]


@pytest.mark.rule("S12.9", "S9.1", only=("remote",))
def test_what_every_replica_fails_on_is_poison_and_the_others_are_answered() -> None:
    options = ("--sim-fail-token", "77", "--log-level", "error")
    with Server(*options) as first, Server(*options) as second:
        with client_of(first.url, second.url) as sampler:
            params = SamplingParams(max_tokens=4, seed=SEED)
            inputs = [{"input_ids": ids} for ids in ([1], [77], [2])]
            with pytest.raises(PoisonRequest, match=r"inputs\[1\]") as raised:
                sampler.sample(inputs, params)
            assert list(raised.value.errors or ()) == [1]
            assert not raised.value.retryable
            good = [raised.value.responses[index].sequences[0].tokens for index in (0, 2)]
            assert good == [whole([1], 0, 4), whole([2], 2, 4)]
            assert sampler.sample(inputs[0], params).sequences[0].tokens == good[0]
        assert all(server.status()["ready"] for server in (first, second))
