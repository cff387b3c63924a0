"""The sim engine as an engine: the Protocol's promises, with and without latency."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.ledger import Asked, Got, check, read_ledger

from sampler_api.errors import AdapterCapacity, AdapterInvalid
from sampler_api.params import SamplingParams
from sampler_server.engines.base import Delta, EngineRequest
from sampler_server.engines.sim import SimEngine, SimSettings, base_digest
from sampler_server.engines.sim.latency import LatencyModel
from sampler_server.engines.sim.model import EOS_ID, VOCAB_SIZE
from sampler_server.engines.sim.settings import SimFaults
from sampler_server.engines.sim.tokens import sim_sequence

BASE = base_digest()
PROMPT = np.array([1, 2, 3, 250], np.int32)
SLOW = LatencyModel(decode_rate=20)


class Collected:
    """What came out for one key."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def array(self, name: str, dtype: type[np.generic]) -> "np.ndarray[Any, Any]":
        return np.frombuffer(b"".join(getattr(d, name) for d in self.deltas), dtype)

    @property
    def tokens(self) -> list[int]:
        return [int(token) for token in self.array("tokens", np.int32)]

    @property
    def finish(self) -> str | None:
        return self.deltas[-1].finish if self.deltas else None


class Harness:
    """An engine and what its sink got."""

    def __init__(self, settings: SimSettings) -> None:
        self.engine = SimEngine(settings)
        self.found: dict[int, Collected] = {}
        self.calls = 0
        self._changed = threading.Condition()
        self.engine.start(self._sink)

    def _sink(self, deltas: Sequence[Delta]) -> None:
        with self._changed:
            self.calls += 1
            for delta in deltas:
                self.found.setdefault(delta.key, Collected()).deltas.append(delta)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=20)

    def run(self, *requests: EngineRequest) -> list[Collected]:
        self.engine.submit(requests)
        keys = [r.key for r in requests]
        self.wait(lambda: all(k in self.found and self.found[k].finish for k in keys))
        return [self.found[key] for key in keys]


@pytest.fixture
def start() -> Iterator[Callable[..., Harness]]:
    started: list[Harness] = []

    def build(**settings: Any) -> Harness:
        started.append(Harness(SimSettings(**settings)))
        return started[-1]

    yield build
    for harness in started:
        harness.engine.close()


def request(
    key: int = 1, output: Sequence[int] = (), max_total: int = 16, **fields: Any
) -> EngineRequest:
    params = SamplingParams(**fields.pop("params", {}))
    values: dict[str, Any] = {"prompt_ids": PROMPT, "seed": key, **fields}
    return EngineRequest(
        key=key, output_ids=np.array(output, np.int32), params=params, max_total=max_total, **values
    )


def reference(seed: int, length: int, adapter: str | None = None) -> list[int]:
    return sim_sequence(PROMPT, seed, BASE, adapter, length)[0]


@pytest.mark.parametrize(
    "latency",
    [
        pytest.param(LatencyModel(), id="at once"),
        pytest.param(LatencyModel(50_000, 5_000, 1e-6, 0.2), id="with latency"),
    ],
)
def test_sequences_equal_the_reference(
    start: Callable[..., Harness], latency: LatencyModel
) -> None:
    harness = start(latency=latency, slots=8)
    lengths = [1, 2, 15, 16, 17, 64, 65, 200] * 4
    got = harness.run(*(request(i, max_total=n) for i, n in enumerate(lengths)))
    assert [g.tokens for g in got] == [reference(i, n) for i, n in enumerate(lengths)]
    assert {g.finish for g in got} == {"length"}


@pytest.mark.parametrize("cut", [1, 7, 15])
def test_a_continuation_goes_on_where_the_first_attempt_ended(
    start: Callable[..., Harness], cut: int
) -> None:
    whole = reference(5, 16)
    (got,) = start().run(request(9, output=whole[:cut], seed=5))
    assert got.tokens == whole[cut:]


def test_unseeded_sequences_of_two_engines_differ(start: Callable[..., Harness]) -> None:
    one, two = (start().run(request(1, seed=None))[0].tokens for _ in range(2))
    assert one != two


def test_children_without_a_seed_differ(start: Callable[..., Harness]) -> None:
    one, two = start().run(request(1, seed=None), request(2, seed=None))
    assert one.tokens != two.tokens


def test_no_logprobs_are_made_when_none_are_asked_for(start: Callable[..., Harness]) -> None:
    (got,) = start().run(request())
    assert got.array("logprobs", np.float32).size == 0


def test_logprobs_come_with_every_token(start: Callable[..., Harness]) -> None:
    (got,) = start().run(request(3, params={"logprobs": 1}))
    assert got.array("logprobs", np.float32).tolist() == sim_sequence(PROMPT, 3, BASE, None, 16)[1]


def test_candidates_start_with_the_sampled_token(start: Callable[..., Harness]) -> None:
    (got,) = start().run(request(3, max_total=100, params={"logprobs": 5}))
    ids = got.array("top_ids", np.int32).reshape(-1, 5)
    values = got.array("top_logprobs", np.float32).reshape(-1, 5)
    assert ids[:, 0].tolist() == got.tokens
    assert values[:, 0].tolist() == sim_sequence(PROMPT, 3, BASE, None, 100)[1]
    assert all(len(set(row)) == 5 for row in ids.tolist())
    assert (np.diff(values[:, 1:], axis=1) <= 0).all()


def test_scoring_makes_no_token(start: Callable[..., Harness]) -> None:
    (got,) = start().run(
        request(
            max_total=0, want_prompt_logprobs=True, params={"max_tokens": 0, "prompt_logprobs": 3}
        )
    )
    (delta,) = got.deltas
    assert (delta.finish, delta.tokens) == ("length", b"")
    assert delta.prompt is not None
    assert np.isnan(np.frombuffer(delta.prompt.logprobs, np.float32)[0])
    top = np.frombuffer(delta.prompt.top_logprobs, np.float32).reshape(len(PROMPT), 3)
    assert (np.diff(top[1:], axis=1) <= 0).all()


def test_prompt_scores_come_before_or_with_the_first_token(start: Callable[..., Harness]) -> None:
    (got,) = start().run(request(want_prompt_logprobs=True, params={"prompt_logprobs": 0}))
    assert got.deltas[0].prompt is not None
    assert [d.prompt for d in got.deltas[1:]] == [None] * (len(got.deltas) - 1)


def test_the_end_of_sequence_ends_it(start: Callable[..., Harness]) -> None:
    harness = start(eos_rate=0.2)
    for got, seed in zip(
        harness.run(*(request(i, max_total=300) for i in range(20))), range(20), strict=True
    ):
        assert got.tokens == sim_sequence(PROMPT, seed, BASE, None, 300, eos_rate=0.2)[0]
        assert got.finish == "stop"
        assert got.tokens[-1] == EOS_ID


def test_a_sequence_that_ignores_eos_has_none(start: Callable[..., Harness]) -> None:
    (got,) = start(eos_rate=0.5).run(request(1, max_total=80, params={"ignore_eos": True}))
    assert got.tokens == reference(1, 80)


def test_min_tokens_holds_back_eos_and_stop_ids(start: Callable[..., Harness]) -> None:
    params = {"min_tokens": 70, "stop_token_ids": list(range(128))}
    (got,) = start(eos_rate=0.5).run(request(1, max_total=200, params=params))
    assert 70 < len(got.tokens) < 200
    assert min(got.tokens[:70]) >= 128
    assert EOS_ID not in got.tokens[:70]
    assert got.finish == "stop"


def test_min_tokens_counts_what_was_delivered_before(start: Callable[..., Harness]) -> None:
    params = {"min_tokens": 20, "stop_token_ids": list(range(200))}
    harness = start()
    (whole,) = harness.run(request(1, seed=4, max_total=200, params=params))
    (rest,) = harness.run(request(2, seed=4, max_total=200, output=whole.tokens[:9], params=params))
    assert rest.tokens == whole.tokens[9:]


def test_a_stop_id_ends_the_sequence_with_itself(start: Callable[..., Harness]) -> None:
    tokens = reference(6, 64)
    stop = tokens[40]
    (got,) = start().run(request(6, max_total=64, params={"stop_token_ids": [stop]}))
    assert got.tokens == tokens[: tokens.index(stop) + 1]
    assert got.finish == "stop"


def test_parameters_without_meaning_are_accepted(start: Callable[..., Harness]) -> None:
    params = {
        "temperature": 0,
        "top_k": 3,
        "logit_bias": {1: 5},
        "bad_words": ["a"],
        "logprobs_mode": "raw",
    }
    (got,) = start().run(request(1, params=params, bad_words=((97,),)))
    assert got.tokens == reference(1, 16)


def test_a_bad_request_fails_alone(start: Callable[..., Harness]) -> None:
    harness = start()
    good, outside, negative, empty, unknown = harness.run(
        request(1),
        request(2, prompt_ids=np.array([1, VOCAB_SIZE], np.int32)),
        request(3, prompt_ids=np.array([-1], np.int32)),
        request(4, prompt_ids=np.empty(0, np.int32)),
        request(5, adapter="sha256:unknown"),
    )
    assert good.tokens == reference(1, 16)
    codes = [g.deltas[-1].error.code for g in (outside, negative, empty, unknown)]  # type: ignore[union-attr]
    assert codes == ["invalid_request", "invalid_request", "invalid_request", "adapter_missing"]


def test_an_adapter_gives_other_tokens_until_it_is_unloaded(
    start: Callable[..., Harness], tmp_path: Path
) -> None:
    harness = start(max_adapters=1)
    harness.engine.load_adapter("sha256:a", tmp_path)
    (got,) = harness.run(request(1, adapter="sha256:a"))
    assert got.tokens == reference(1, 16, "sha256:a") != reference(1, 16)
    with pytest.raises(AdapterCapacity):
        harness.engine.load_adapter("sha256:b", tmp_path)
    harness.engine.unload_adapter("sha256:a")
    with pytest.raises(AdapterInvalid, match="no such directory"):
        harness.engine.load_adapter("sha256:b", tmp_path / "absent")


def test_cancelled_sequences_end_with_abort_whatever_they_were_doing(
    start: Callable[..., Harness],
) -> None:
    harness = start(latency=SLOW, slots=2)
    harness.engine.submit([request(i, max_total=10_000) for i in range(4)])
    harness.wait(lambda: 0 in harness.found and 1 in harness.found)
    harness.engine.cancel([0, 3, 77])
    harness.wait(
        lambda: all(k in harness.found and harness.found[k].finish == "abort" for k in (0, 3))
    )
    harness.wait(lambda: 2 in harness.found)
    assert harness.found[1].finish is None


def test_no_more_than_the_slots_run_at_once(start: Callable[..., Harness]) -> None:
    harness = start(latency=SLOW, slots=3)
    harness.engine.submit([request(i, max_total=1000) for i in range(10)])
    harness.wait(lambda: len(harness.found) == 3)
    progress = harness.engine.progress()
    assert (progress.running, progress.waiting) == (3, 7)
    assert progress.kv_tokens_used >= 3 * len(PROMPT)


def test_tokens_bound_what_runs_but_one_always_runs(start: Callable[..., Harness]) -> None:
    harness = start(latency=SLOW, kv_tokens=3)
    harness.engine.submit([request(i, max_total=1000) for i in range(2)])
    harness.wait(lambda: len(harness.found) == 1)
    assert harness.engine.progress().waiting == 1


def test_a_long_prompt_shows_its_prefill(start: Callable[..., Harness]) -> None:
    harness = start(latency=LatencyModel(prefill_rate=1000))
    harness.engine.submit([request(1, prompt_ids=np.ones(10_000, np.int32)), request(2)])
    seen: list[tuple[int, int]] = []
    while not any(0 < done < total for done, total in seen):
        seen += harness.engine.progress().prefill.values()
    assert max(total for _, total in seen) == 10_000


def test_all_tokens_of_a_step_come_in_one_call(start: Callable[..., Harness]) -> None:
    harness = start(latency=LatencyModel(decode_rate=200))
    harness.run(*(request(i, max_total=5) for i in range(50)))
    assert harness.calls < 50


def test_closing_aborts_what_runs_and_refuses_what_comes(start: Callable[..., Harness]) -> None:
    harness = start(latency=SLOW, slots=1)
    harness.engine.submit([request(1, max_total=1000), request(2)])
    harness.wait(lambda: 1 in harness.found)
    harness.engine.close()
    assert [harness.found[k].finish for k in (1, 2)] == ["abort", "abort"]
    (late,) = harness.run(request(3))
    assert late.deltas[-1].error is not None
    assert late.deltas[-1].error.code == "engine_dead"


def test_a_marked_prompt_fails_and_others_go_on(start: Callable[..., Harness]) -> None:
    harness = start(faults=SimFaults(fail_token=250))
    bad, good = harness.run(request(1), request(2, prompt_ids=np.array([4], np.int32)))
    assert bad.deltas[-1].error is not None
    assert bad.deltas[-1].error.code == "engine_failed"
    assert good.finish == "length"


def test_a_share_of_the_sequences_fails_with_right_tokens_before(
    start: Callable[..., Harness],
) -> None:
    harness = start(faults=SimFaults(fail_rate=0.5))
    got = harness.run(*(request(i, max_total=100) for i in range(200)))
    failed = [i for i, g in enumerate(got) if g.finish == "error"]
    assert 50 < len(failed) < 150
    assert all(g.tokens == reference(i, 100)[: len(g.tokens)] for i, g in enumerate(got))


def test_a_stalled_engine_stops_counting_and_still_closes(start: Callable[..., Harness]) -> None:
    harness = start(latency=LatencyModel(decode_rate=200), faults=SimFaults(stall_after=3))
    harness.engine.submit([request(1, max_total=100)])
    harness.wait(lambda: 1 in harness.found and len(harness.found[1].tokens) >= 3)
    steps = harness.engine.progress().steps
    assert (steps, harness.engine.progress().running) == (3, 1)
    harness.engine.close()
    assert harness.found[1].finish == "abort"


def test_every_token_is_in_the_ledger_before_it_is_seen(
    start: Callable[..., Harness], tmp_path: Path
) -> None:
    harness = start(ledger=tmp_path / "ledger", latency=LatencyModel(decode_rate=2000))
    asked = [Asked(tuple(PROMPT.tolist()), seed, BASE, length=20) for seed in range(6)]
    half = [sim_sequence(PROMPT, seed, BASE, None, 10)[0] for seed in range(6)]
    first = harness.run(*(request(i, max_total=10) for i in range(6)))
    second = harness.run(*(request(i + 10, seed=i, output=half[i], max_total=20) for i in range(6)))
    got = [Got(a, (*f.tokens, *s.tokens)) for a, f, s in zip(asked, first, second, strict=True)]
    # The engine still runs: nothing waits for it to close.
    found = check(read_ledger(tmp_path / "ledger"), asked, got)
    assert (found.count, found.redone) == (0, 0), str(found)
