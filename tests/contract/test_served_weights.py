"""Base weights that change under a server: its sessions, and clients that have several replicas. On
the engine without weights."""

import json
from pathlib import Path

import pytest
from tests import weights_server
from tests.raw_adapters import write_adapter
from tests.raw_bases import write_base
from tests.raw_session import opened
from tests.servers import Server
from tests.updatable import ask_for
from tests.weights_server import INPUTS, SIM, Calls, bases_of, begun, made, running, until

from sampler_api.errors import (
    RevisionGone,
)
from sampler_api.frames import HANDED_OVER, LENGTH
from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler
from sampler_core.bases import base_digest
from sampler_server.engines.sim.tokens import weights_state

pytestmark = pytest.mark.long

roots, server = weights_server.roots, weights_server.server


def test_a_session_continues_under_the_base_that_replaced_its_own(
    server: Server, roots: Path
) -> None:
    new = write_base(roots / "b", 1)
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server)
        base = ask_for(server, new, in_flight="continue")
        assert base == base_digest(new)
        for response in call.wait():
            (sequence,) = response.sequences
            first, second = sequence.segments
            assert (first.start, first.end, second.end) == (0, second.start, 300)
            assert len(sequence.tokens) == 300
            assert bases_of(sequence) == [SIM, base]
            assert [s.ended for s in sequence.segments] == ["drained", "finished"]
            assert sequence.revision is not None
            assert sequence.revision.base == base
        status = server.status()
        assert (status["card"].base, status["ready"], status["operations"]) == (base, True, ())
        (after,) = sampler.sample(INPUTS[0], {"max_tokens": 3}).sequences
        assert bases_of(after) == [base]


def test_the_tokens_of_a_segment_are_those_of_the_base_that_it_names(
    server: Server, roots: Path
) -> None:
    """A fresh server on the new base, given what was made before the change, goes on alike."""
    new = write_base(roots / "b", 1)
    with RemoteSampler(server.url) as sampler:
        call = Calls(lambda: sampler.sample(INPUTS, {"max_tokens": 300, "seed": 3, "logprobs": 1}))
        until(lambda: running(server) == len(INPUTS))
        until(lambda: server.status()["load"]["steps"] > 20)
        ask_for(server, new, in_flight="continue")
        continued = call.wait().sequences
        for given, sequence in zip(INPUTS, continued, strict=True):
            cut = sequence.segments[-1].start
            assert 0 < cut < 300
            head = SampledSequence("abort", sequence.tokens[:cut], list(sequence.logprobs)[:cut])
            # In its place among the inputs, which is part of its seed.
            given_back = [head if each is given else None for each in INPUTS]
            again = sampler.sample(
                INPUTS, {"max_tokens": 300, "seed": 3, "logprobs": 1}, resume=given_back
            )
            assert again.sequences[INPUTS.index(given)].tokens == sequence.tokens


def test_a_session_finishes_under_its_own_base(server: Server, roots: Path) -> None:
    new = write_base(roots / "b", 1)
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server, length=150)
        base = ask_for(server, new)
        for response in call.wait():
            assert bases_of(response.sequences[0]) == [SIM]
            assert len(response.sequences[0].tokens) == 150
        until(lambda: sampler._backend.card().base == base)
        (after,) = sampler.sample(INPUTS[0], {"max_tokens": 3}).sequences
        assert bases_of(after) == [base]


def test_a_session_is_told_that_its_base_is_gone(server: Server, roots: Path) -> None:
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server, on_error="return")
        ask_for(server, write_base(roots / "b", 1), in_flight="abort")
        for response in call.wait():
            (sequence,) = response.sequences
            assert isinstance(sequence.error, RevisionGone)
            assert set(bases_of(sequence)) <= {SIM}
            assert len(sequence.tokens) == sum(s.end - s.start for s in sequence.segments) < 300


def test_what_still_waits_at_the_client_ends_when_nothing_succeeds_its_base(
    roots: Path,
) -> None:
    """The client's backlog names the old base; a base that came by finish or abort is not its."""
    with (
        made(roots, "--max-num-seqs", "2") as server,
        RemoteSampler(server.url, gone_timeout=1, tick=0.2) as sampler,
    ):
        many = [{"input_ids": [i + 1]} for i in range(40)]
        call = Calls(lambda: sampler.sample(many, {"max_tokens": 60}, on_error="return"))
        until(lambda: running(server) == 2)
        ask_for(server, write_base(roots / "b", 1), in_flight="finish")
        sequences = call.wait().sequences
        ended = [s for s in sequences if s.error is None]
        gone = [s for s in sequences if s.error is not None]
        assert ended
        assert gone
        assert all(bases_of(s) == [SIM] and len(s.tokens) == 60 for s in ended)
        assert all(isinstance(s.error, RevisionGone) and not s.tokens for s in gone)


def test_a_backlog_goes_on_under_the_base_that_succeeds_its_own(roots: Path) -> None:
    with made(roots, "--max-num-seqs", "2") as server, RemoteSampler(server.url) as sampler:
        many = [{"input_ids": [i + 1]} for i in range(20)]
        call = Calls(lambda: sampler.sample(many, {"max_tokens": 40}))
        until(lambda: running(server) == 2)
        base = ask_for(server, write_base(roots / "b", 1), in_flight="continue")
        found = [bases_of(s) for s in call.wait().sequences]
        assert all(named[-1] == base or named == [SIM] for named in found)
        assert [base] in found


def test_adapters_are_held_over_a_change(server: Server, roots: Path) -> None:
    adapter = write_adapter(roots / "a", 1)
    with RemoteSampler(server.url) as sampler:
        revision = sampler.add_adapter_to_model("policy", adapter)
        call = begun(sampler, server, adapter_name="policy")
        base = ask_for(server, write_base(roots / "b", 1), in_flight="continue")
        for response in call.wait():
            (sequence,) = response.sequences
            assert bases_of(sequence) == [SIM, base]
            assert {s.revision.adapter for s in sequence.segments if s.revision} == {
                revision.digest
            }
        assert server.status()["held"] == (revision.digest,)
    assert weights_state(SIM, revision.digest) != weights_state(base, revision.digest)


def test_a_sequence_stays_on_its_base_while_another_replica_has_it(roots: Path) -> None:
    with (
        made(roots) as first,
        made(roots) as second,
        RemoteSampler(f"{first.url},{second.url}") as sampler,
    ):
        call = begun(sampler, first, second)
        base = ask_for(first, write_base(roots / "b", 1), in_flight="continue")
        replicas = set()
        for response in call.wait():
            (sequence,) = response.sequences
            assert set(bases_of(sequence)) == {SIM}
            replicas |= {s.replica for s in sequence.segments[1:]}
        assert replicas <= {second.name}
        # New calls go to the newest base, and nobody samples the old one from the first.
        until(lambda: (first.manage.get("/livez"), sampler._backend.card().base == base)[1])
        for response in sampler.sample(INPUTS, {"max_tokens": 5}):
            (segment,) = response.sequences[0].segments
            assert (segment.replica, bases_of(response.sequences[0])) == (first.name, [base])
        # The second follows: what runs is not of its base, and stays where it is.
        call = begun(sampler, first)
        ask_for(second, roots / "b", in_flight="continue")
        for response in call.wait():
            assert bases_of(response.sequences[0]) == [base]


def test_a_request_that_names_the_old_base_is_refused(server: Server, roots: Path) -> None:
    base = ask_for(server, write_base(roots / "b", 1))
    for named, status in ((SIM, 409), (base, 200)):
        body = {"inputs": INPUTS[:1], "sampling_params": {"max_tokens": 3}, "base": named}
        found, answer = server.data.post("/v1/sample", json.dumps(body).encode())
        assert (found, named in json.dumps(answer)) == (status, True)


async def test_a_raw_session_sees_what_happens(server: Server, roots: Path) -> None:
    new = write_base(roots / "b", 1)
    async with opened(server.session_url, "raw") as session:
        assert session.hello.card.base == SIM
        assert session.hello.succeeds == ()
        stream = await session.submit(0, max_tokens=1000)
        await session.at_least(stream, 5)
        updating = Calls(lambda: ask_for(server, new, in_flight="continue"))
        assert (await session.ended(stream)).flag == HANDED_OVER
        assert session.is_draining
        frame = await session.hear()
        while frame.bye is None:
            frame = await session.hear()
        base = updating.wait()
        assert base in frame.bye
    async with opened(server.session_url, "raw") as again:
        assert (again.hello.card.base, again.hello.succeeds) == (base, (SIM,))
        refused = await again.ended(await again.submit(0, seq=1, max_tokens=5, base=SIM))
        assert refused.detail is not None
        assert refused.detail.code == "base_mismatch"
        served = await again.ended(await again.submit(1, seq=2, max_tokens=5))
        assert served.flag == LENGTH


def test_only_what_was_continued_is_succeeded(server: Server, roots: Path) -> None:
    import asyncio

    async def succeeds() -> tuple[str, ...]:
        async with opened(server.session_url, "raw") as session:
            return session.hello.succeeds

    digests = [ask_for(server, write_base(roots / "1", 1), in_flight="continue")]
    digests.append(ask_for(server, write_base(roots / "2", 2), in_flight="continue"))
    assert asyncio.run(succeeds()) == (SIM, digests[0])
    ask_for(server, write_base(roots / "3", 3), in_flight="finish")
    assert asyncio.run(succeeds()) == ()
    ask_for(server, roots / "2", in_flight="continue")
    ask_for(server, roots / "3", in_flight="continue")
    assert asyncio.run(succeeds()) == (digests[1],)
