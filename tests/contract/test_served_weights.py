"""Base weights that change under a server: its management port, its sessions, its plain HTTP
requests, and clients that have several replicas. On the engine without weights."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.proxy import wait_until
from tests.raw_adapters import write_adapter
from tests.raw_bases import SHARDS, write_base
from tests.raw_session import opened
from tests.servers import Port, Server
from tests.updatable import ask_for

from sampler_api.errors import (
    Busy,
    Forbidden,
    InvalidRequest,
    NoReplica,
    ProgressTimeout,
    RevisionGone,
    SamplerError,
    Unsupported,
    WeightsInvalid,
)
from sampler_api.fleet import AdaptersConfig
from sampler_api.frames import HANDED_OVER, LENGTH
from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler
from sampler_core.bases import base_digest
from sampler_server.engines.sim import base_digest as sim_digest
from sampler_server.engines.sim.tokens import weights_state

pytestmark = pytest.mark.long

RATE = 200
SIM = sim_digest()
INPUTS = [{"input_ids": [i + 1, 5, 9]} for i in range(4)]


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    (tmp_path / "roots").mkdir()
    return tmp_path / "roots"


@pytest.fixture
def server(roots: Path) -> Iterator[Server]:
    with made(roots) as server:
        yield server


def made(roots: Path, *options: str) -> Server:
    rate = ("--sim-decode-rate", str(RATE), "--sim-eos-rate", "0")
    return Server(*rate, "--adapter-root", str(roots), *options)


def until(holds: Callable[[], bool]) -> None:
    wait_until(holds, "what the test waits for")


def running(server: Server) -> int:
    return int(server.status()["load"].get("running", 0))


class Calls:
    """Something that takes its time, in a thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._found: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._call()
        except Exception as error:
            self._error = error

    def wait(self) -> Any:
        self._thread.join(50)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._found


def begun(sampler: RemoteSampler, *servers: Server, length: int = 300, **how: Any) -> Calls:
    call = Calls(lambda: sampler.sample(INPUTS, {"max_tokens": length, "logprobs": 1}, **how))
    until(lambda: sum(map(running, servers)) == len(INPUTS))
    return call


def bases_of(sequence: SampledSequence) -> list[str]:
    return [s.revision.base for s in sequence.segments if s.revision is not None]


# -- one server and its clients ----------------------------------------------------------------


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


# -- plain HTTP --------------------------------------------------------------------------------


def completion(server: Server, length: int) -> httpx.Response:
    body = {"model": "sim", "prompt": [[1, 2, 3]], "max_tokens": length}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=50)


def test_plain_http_finishes_or_waits(server: Server, roots: Path) -> None:
    before = Calls(lambda: completion(server, 800))
    until(lambda: running(server) == 1)
    updating = Calls(lambda: ask_for(server, write_base(roots / "b", 1), in_flight="finish"))
    until(lambda: is_pending(server))
    after = Calls(lambda: completion(server, 5))
    assert before.wait().status_code == 200
    updating.wait()
    assert after.wait().status_code == 200


def is_pending(server: Server) -> bool:
    return "replace weights" in server.status()["operations"]


@pytest.mark.parametrize("in_flight", ["abort", "continue"])
def test_plain_http_cannot_go_on(server: Server, roots: Path, in_flight: str) -> None:
    call = Calls(lambda: completion(server, 3000))
    until(lambda: running(server) == 1)
    ask_for(server, write_base(roots / "b", 1), in_flight=in_flight)
    answer = call.wait()
    assert answer.status_code == 410
    assert answer.json()["error"]["code"] == "revision_gone"
    assert completion(server, 5).status_code == 200


# -- the management port -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        pytest.param({}, InvalidRequest, None, id="nothing"),
        pytest.param({"directory": 7}, InvalidRequest, "directory", id="a number"),
        pytest.param({"directory": "b"}, WeightsInvalid, "directory", id="a relative path"),
        pytest.param({"directory": "hf://a/b"}, Unsupported, "directory", id="a hub"),
        pytest.param({"directory": "/etc"}, WeightsInvalid, "directory", id="outside the roots"),
        pytest.param(
            {"directory": "/b", "in_flight": "x"}, InvalidRequest, "in_flight", id="a policy"
        ),
        pytest.param({"directory": "/b", "force": True}, InvalidRequest, None, id="unknown"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    server: Server, body: dict[str, Any], error: type[SamplerError], field: str | None
) -> None:
    status, answer = server.manage.post("/weights", json.dumps(body).encode())
    assert (status, answer["error"]["code"]) == (400, error.code)
    assert answer["error"]["field"] == field
    assert server.status()["card"].base == SIM


def test_a_body_that_is_too_large_or_no_json_is_refused(server: Server) -> None:
    assert server.manage.post("/weights", b"{")[0] == 400
    assert server.manage.post("/weights", b"[]")[0] == 400
    assert server.manage.post("/weights", b" " * (1 << 20))[0] == 413


def test_a_damaged_directory_disturbs_nobody(server: Server, roots: Path) -> None:
    new = write_base(roots / "b", 1)
    (new / SHARDS[0]).write_bytes(b"x" * 100)
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server, length=100)
        with pytest.raises(WeightsInvalid, match=SHARDS[0]):
            ask_for(server, new, in_flight="abort")
        for response in call.wait():
            assert [s.ended for s in response.sequences[0].segments] == ["finished"]


def test_the_wait_for_what_runs_can_be_bounded(server: Server, roots: Path) -> None:
    new = write_base(roots / "b", 1)
    with RemoteSampler(server.url) as sampler:
        call = begun(sampler, server, length=1200)
        with pytest.raises(ProgressTimeout):
            ask_for(server, new, finish_seconds=0)
        updating = Calls(lambda: ask_for(server, new))
        until(lambda: is_pending(server))
        with pytest.raises(NoReplica), RemoteSampler(server.url, first_reply_timeout=1) as other:
            other.sample(INPUTS[0], {"max_tokens": 1})
        with pytest.raises(Busy):
            ask_for(server, new)
        for response in call.wait():
            (sequence,) = response.sequences
            assert (len(sequence.tokens), set(bases_of(sequence))) == (1200, {SIM})
        assert updating.wait() == base_digest(new)


def test_from_another_machine_it_takes_an_admin(roots: Path, tmp_path: Path) -> None:
    address = _own_address()
    tokens = tmp_path / "tokens"
    tokens.write_text("a:publish:p\nb:admin:q\n")
    with made(roots, "--host", "*", "--token-file", str(tokens)) as server:
        new = write_base(roots / "b", 1)
        url = f"http://{address}:{server.manage.number}/weights"
        body = {"directory": str(new)}
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer p"}, 403),
            ({"authorization": "Bearer q"}, 200),
        ):
            assert httpx.post(url, json=body, headers=headers, timeout=20).status_code == status
    with made(roots, "--host", "*") as server:
        url = f"http://{address}:{server.manage.number}/weights"
        answer = httpx.post(url, json=body, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, Forbidden.code)


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: it tells which address would be used.
        probe.connect(("192.0.2.1", 9))
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_a_base_that_was_asked_for_is_not_replaced(roots: Path) -> None:
    with made(roots, "--model-digest", SIM) as server:
        with pytest.raises(WeightsInvalid, match="--model-digest"):
            ask_for(server, write_base(roots / "b", 1))
        assert server.status()["card"].base == SIM


def test_a_replica_keeps_to_the_base_of_its_fleet(
    roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    config = tmp_path / "config" / "adapters.json"
    new = write_base(roots / "b", 1)
    config.write_bytes(msgspec.json.encode(AdaptersConfig(bases={"t": SIM})))
    monkeypatch.setenv("SAMPLER_TEMPLATE_HASH", "t")
    with made(roots, "--adapters-config", str(config.parent)) as server:
        with pytest.raises(WeightsInvalid, match="the fleet decides on its base"):
            ask_for(server, new)
        assert server.manage.get("/readyz")[0] == 200


def test_all_engines_of_a_pod_follow(roots: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = ("--adapter-store", str(tmp_path / "store"))
    with made(roots, "--engines", "2", *store) as pod:
        until(lambda: pod.manage.get("/readyz")[0] == 200)
        base = ask_for(pod, write_base(roots / "b", 1))
        assert pod.status()["card"].base == base
        for engine in pod.announced["engines"]:
            assert Port(engine["manage_port"]).get("/status")[1]["card"]["base"] == base
        with pytest.raises(WeightsInvalid, match=r"engine 0 of 2: .*does not exist"):
            ask_for(pod, roots / "nothing")
        assert pod.manage.get("/readyz")[0] == 200
