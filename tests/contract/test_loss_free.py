"""Nothing lost, nothing twice, nothing changed, whatever breaks between client and replicas."""

import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.ledger import Asked, Got, check, read_ledger
from tests.proxy import KINDS as WIRE_KINDS
from tests.proxy import FaultProxy, FaultSchedule
from tests.servers import Server
from tests.undisturbed import undisturbed

from sampler_api.logprobs import LogprobRows
from sampler_api.results import Responses, SampledSequence
from sampler_client import RemoteSampler, SamplingParams
from sampler_core.base import SamplerBase
from sampler_core.seeds import child_seed
from sampler_server.engines.sim.rows import prompt_scores
from sampler_server.engines.sim.tokens import sim_sequence, weights_state

pytestmark = pytest.mark.long

SEED = 20
REQUESTS = 2000
TOKENS = 64
STOP_IDS = (7, 100)
REPLICAS = 3
KINDS = ("kill", "kill and start late", "drain", "freeze")
OPTIONS = (
    *("--sim-decode-rate", "60", "--sim-prefill-rate", "50000", "--sim-jitter", "0.2"),
    *("--max-num-seqs", "512", "--orphan-seconds", "5"),
    *("--log-level", "warning"),
)


class Job(NamedTuple):
    """All inputs that ask for ``n`` sequences: one call."""

    n: int
    prompts: list[list[int]]

    @property
    def seed(self) -> int:
        return 1000 * self.n

    def expected(self) -> Iterator[tuple[int, int, list[int], int]]:
        """Input, child, prompt and child seed of every sequence."""
        for index, prompt in enumerate(self.prompts):
            for child in range(self.n):
                yield index, child, prompt, child_seed(self.seed, index, child)


def jobs_of(draw: random.Random) -> list[Job]:
    jobs = {n: Job(n, []) for n in range(1, 9)}
    for _ in range(REQUESTS):
        prompt = [draw.randrange(256) for _ in range(draw.randint(4, 64))]
        jobs[draw.randint(1, 8)].prompts.append(prompt)
    return list(jobs.values())


class ServerFaults:
    """Kills, restarts, drains and freezes servers by a seeded schedule, in a thread of its own."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._servers = servers
        self._draw = random.Random(seed)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "ServerFaults":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        draw = self._draw
        kinds: list[str] = []
        while not self._is_over.wait(draw.uniform(0.2, 1.5)):
            # Every kind once a round, so that a short run has them all.
            kinds = kinds or draw.sample(KINDS, len(KINDS))
            kind = kinds.pop()
            server = draw.choice(self._servers)
            self.counts[kind] += 1
            if kind == "freeze":
                server.send(signal.SIGSTOP)
                self._is_over.wait(draw.uniform(0.1, 2.5))
                server.send(signal.SIGCONT)
                continue
            if kind == "drain":
                server.stop()
            else:
                server.kill()
            if kind == "kill and start late":
                self._is_over.wait(draw.uniform(0.2, 1.0))
            server.start()


def run_jobs(sampler: SamplerBase, jobs: list[Job]) -> list[Responses]:
    """All jobs at once, a thread each."""
    answers: list[Responses | None] = [None] * len(jobs)

    def call(number: int, job: Job) -> None:
        params = SamplingParams(max_tokens=TOKENS, seed=job.seed, logprobs=1, prompt_logprobs=0)
        inputs: list[Any] = [{"input_ids": prompt} for prompt in job.prompts]
        answers[number] = sampler.sample(inputs, params, num_samples=job.n)

    threads = [threading.Thread(target=call, args=each) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer is not None for answer in answers), "a call has failed"
    return [answer for answer in answers if answer is not None]


def prompt_logprobs(prompt: list[int], base: str) -> list[float | None]:
    """What an undisturbed engine gives for a prompt."""
    scores = prompt_scores(weights_state(base, None), np.array(prompt, np.int32), 0)
    return [None, *np.frombuffer(scores.logprobs, np.float32)[1:].tolist()]


def segments_fit(sequence: SampledSequence) -> bool:
    """Segments follow each other without a gap and cover every token."""
    spans = [(s.start, s.end) for s in sequence.segments]
    starts = [0, *(end for _, end in spans)]
    return [start for start, _ in spans] == starts[:-1] and starts[-1] == len(sequence.tokens)


@contextmanager
def broken_fleet(
    seed: int, *options: str
) -> Iterator[tuple[RemoteSampler, ServerFaults, list[FaultProxy]]]:
    """A client of replicas that break all the time, by themselves and on the way."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(*OPTIONS, *options)) for _ in range(REPLICAS)]
        # The last server is met directly: the client itself sees that nobody listens.
        proxies = [stack.enter_context(FaultProxy(server.data.number)) for server in servers[:-1]]
        sampler = stack.enter_context(
            RemoteSampler(
                ",".join([*(proxy.url for proxy in proxies), servers[-1].url]),
                tick=0.1,
                connect_timeout=0.5,
                silence_timeout=1.5,
                progress_timeout=5.0,
                reconnect_delay_max=0.5,
            )
        )
        faults = stack.enter_context(ServerFaults(servers, seed))
        for number, proxy in enumerate(proxies):
            proxy.start(FaultSchedule(seed + number, mean_pause=1.0))
        yield sampler, faults, proxies


# Runs about 30 s on two idle cores.
@pytest.mark.rule("S12.1", only=("remote",))
@pytest.mark.timeout(240)
def test_requests_survive_cut_connections_and_killed_frozen_and_restarted_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger"
    jobs = jobs_of(random.Random(SEED))
    with broken_fleet(SEED, "--sim-ledger", str(ledger)) as (sampler, faults, proxies):
        answers = run_jobs(sampler, jobs)
    base = answers[0].sequences[0].revision
    assert base is not None

    asked: list[Asked] = []
    got: list[Got] = []
    ended: Counter[str] = Counter()
    for job, answer in zip(jobs, answers, strict=True):
        assert [len(response.sequences) for response in answer] == [job.n] * len(job.prompts)
        for prompt, response in zip(job.prompts, answer, strict=True):
            # Once computed, they are kept whatever becomes of the sequences.
            assert response.prompt_logprobs == prompt_logprobs(prompt, base.base)
        prompts, seeds = zip(
            *((prompt, seed) for _, _, prompt, seed in job.expected()), strict=True
        )
        weights = [weights_state(base.base, None)] * len(seeds)
        _, logprobs = undisturbed(prompts, seeds, weights, TOKENS)
        for (index, child, prompt, seed), wanted in zip(job.expected(), logprobs, strict=True):
            sequence = answer[index].sequences[child]
            assert isinstance(sequence.logprobs, LogprobRows)
            assert np.array_equal(sequence.logprobs.sampled, wanted)
            assert sequence.stop_reason == "length"
            assert segments_fit(sequence)
            ended.update(segment.ended for segment in sequence.segments)
            asked.append(Asked(tuple(prompt), seed, base.base, length=TOKENS))
            got.append(Got(asked[-1], tuple(sequence.tokens)))
    violations = check(read_ledger(ledger), asked, got)
    on_wire = sum((proxy.counts for proxy in proxies), Counter[str]())
    with capsys.disabled():
        print(f"\n  {len(got)} sequences, {violations}; segments ended: {dict(ended)}")
        print(f"  faults of servers: {dict(faults.counts)}, of connections: {dict(on_wire)}")
    assert violations.count == 0, str(violations)
    # Faults that hit nothing would prove nothing.
    assert ended["lost"] > 200
    assert ended["drained"] > 0
    assert set(faults.counts) == set(KINDS)
    assert set(WIRE_KINDS) <= set(on_wire)


@pytest.mark.rule("S11.7", only=("remote",))
@pytest.mark.timeout(120)
def test_streams_that_are_cancelled_and_given_back_under_faults_end_as_undisturbed_ones() -> None:
    draw = random.Random(SEED)
    inputs: list[Any] = [
        {"input_ids": [draw.randrange(256) for _ in range(draw.randint(4, 64))]} for _ in range(200)
    ]
    ended: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with broken_fleet(SEED + 1) as (sampler, _, _):
        for seed in range(3):
            params = SamplingParams(
                max_tokens=TOKENS, seed=seed, logprobs=1, stop_token_ids=list(STOP_IDS)
            )
            stream = sampler.sample_stream(inputs, params)
            parts = dict(next(stream) for _ in range(40))
            parts |= dict(stream.cancel(partial=True))
            given = [parts[index].sequences[0] for index in range(len(inputs))]
            ended.update(sequence.stop_reason for sequence in given)
            answer = sampler.sample(inputs, params, resume=given)
            for index, sequence in enumerate(answer.sequences):
                assert sequence.revision is not None
                prompt, base = inputs[index]["input_ids"], sequence.revision.base
                tokens, logprobs = sim_sequence(
                    prompt, child_seed(seed, index, 0), base, None, TOKENS
                )
                length = next((n for n, t in enumerate(tokens, 1) if t in STOP_IDS), TOKENS)
                assert sequence.tokens == tokens[:length]
                assert isinstance(sequence.logprobs, LogprobRows)
                assert sequence.logprobs.sampled.tolist() == logprobs[:length]
                is_stopped = tokens[length - 1] in STOP_IDS
                assert sequence.stop_reason == ("stop" if is_stopped else "length")
                assert segments_fit(sequence)
                reasons[sequence.stop_reason] += 1
    assert ended["abort"] > 100
    assert min(reasons["stop"], reasons["length"]) > 50
