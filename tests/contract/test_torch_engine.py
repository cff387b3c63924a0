"""The torch engine as an engine: equal to a plain forward pass, whatever shares the batch."""

import gc
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from tests.reference import TOLERANCE, log_softmax, processed, reference  # noqa: E402
from tests.reference import edited as edited_logits  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import ARCHITECTURES, Architecture, tiny_model  # noqa: E402
from tests.torch_harness import Collected, TorchHarness, ask, prompt_of  # noqa: E402

from sampler_api.errors import EngineDead, EngineFailed, InvalidRequest  # noqa: E402
from sampler_core.adapters import TENSORS_FILE  # noqa: E402
from sampler_core.safetensors_file import parse_safetensors  # noqa: E402
from sampler_server.engines.base import EngineRequest  # noqa: E402

ADAPTERS = ("a1", "a2")


def started(architecture: Architecture = "qwen3", **options: Any) -> TorchHarness:
    harness = TorchHarness(tiny_model(architecture), **options)
    for name in ADAPTERS:
        harness.engine.load_adapter(name, tiny_adapter(name, architecture))
    return harness


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchHarness]:
    """Small chunks and few slots, so that every test also waits, chunks and moves rows."""
    harness = started(slots=8, kv_tokens=4096, prefill_tokens=16)
    yield harness
    harness.engine.close()


def plain_logprobs(
    request: EngineRequest, tokens: Sequence[int], architecture: Architecture = "qwen3"
) -> NDArray[np.float64]:
    """Raw logprobs f64 [P + T - 1, V] of one forward pass; row i scores token i + 1."""
    ids = [*request.prompt_ids.tolist(), *request.output_ids.tolist(), *tokens]
    logits = reference(architecture).logits(ids, request.adapter)
    return np.array([log_softmax(row) for row in logits[:-1]]).reshape(-1, logits.shape[1])


def assert_plain(
    request: EngineRequest, found: Collected, architecture: Architecture = "qwen3"
) -> None:
    """Tokens score what a plain forward pass says."""
    rows = plain_logprobs(request, found.tokens, architecture)[-len(found.tokens) :]
    expected = rows[np.arange(len(rows)), found.tokens]
    assert np.abs(expected - found.logprobs).max() <= TOLERANCE
    if request.params.temperature == 0:
        best = rows.max(1)
        assert (best - expected).max() <= TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_base_and_two_adapters_in_one_moving_batch_equal_plain_forward_passes(
    architecture: Architecture,
) -> None:
    harness = started(architecture, slots=8, kv_tokens=4096, prefill_tokens=16)
    rng = np.random.default_rng(1)
    requests = [
        ask(
            prompt_of(int(rng.integers(1, 90)), seed),
            seed=seed,
            adapter=(None, *ADAPTERS)[seed % 3],
            temperature=float(seed % 2),
            max_tokens=int(rng.integers(1, 60)),
            ignore_eos=True,
        )
        for seed in range(18)
    ]
    try:
        for request, found in zip(requests, harness.run(*requests), strict=True):
            assert len(found.tokens) == request.max_total
            assert found.finish == "length"
            assert_plain(request, found, architecture)
    finally:
        harness.engine.close()


def test_a_late_short_request_finishes_before_an_early_long_one(engine: TorchHarness) -> None:
    long = ask(prompt_of(20), max_tokens=300, ignore_eos=True)
    short = ask(prompt_of(5), max_tokens=3, ignore_eos=True)
    engine.engine.submit([long])
    engine.wait(lambda: engine.has_started(long))
    engine.run(short)
    assert not engine.has_finished(long)
    engine.wait(lambda: engine.has_finished(long))
    assert len(engine.found[long.key].tokens) == 300


def test_a_long_prompt_is_read_in_chunks_while_others_go_on(engine: TorchHarness) -> None:
    running = ask(prompt_of(4), max_tokens=200, ignore_eos=True)
    engine.engine.submit([running])
    engine.wait(lambda: engine.has_started(running))
    long = ask(prompt_of(400), max_tokens=2)
    begin = len(engine.steps)
    engine.run(long)
    first = next(i for i, ds in enumerate(engine.steps) if any(d.key == long.key for d in ds))
    beside = sum(d.key == running.key for ds in engine.steps[begin:first] for d in ds)
    assert beside >= 400 // 16 - 2
    engine.engine.cancel([running.key])
    engine.wait(lambda: engine.has_finished(running))


def test_children_of_a_prompt_read_it_once_and_draw_apart() -> None:
    harness = TorchHarness(slots=8, kv_tokens=4096, prefill_tokens=64)
    fed: list[int] = []
    model = harness.engine._started()._model
    forward = model.forward

    def counting(layout: Any, keep: Any) -> Any:
        fed.append(layout.size)
        return forward(layout, keep)

    model.forward = counting  # type: ignore[method-assign]
    prompt = prompt_of(200)
    children = [
        ask(prompt, seed=seed, group=7, max_tokens=10, ignore_eos=True) for seed in range(12)
    ]
    try:
        found = harness.run(*children)
        # Four children came after the first eight had gone: one token each is read again.
        assert sum(fed) <= 200 + 12 * 9 + 200 + 4
        assert len({tuple(f.tokens) for f in found}) == 12
        for request, one in zip(children, found, strict=True):
            assert_plain(request, one)
    finally:
        harness.engine.close()


def test_what_does_not_fit_the_token_budget_waits_in_order() -> None:
    harness = TorchHarness(slots=16, kv_tokens=512, prefill_tokens=32)
    core = harness.engine._started()
    peak: list[int] = []
    step = core.step

    def watched() -> None:
        step()
        peak.append(core._memory.allocated)

    core.step = watched  # type: ignore[method-assign]
    requests = [
        ask(prompt_of(40 + 10 * i, i), seed=i, max_tokens=60, ignore_eos=True) for i in range(10)
    ]
    try:
        for request, found in zip(requests, harness.run(*requests), strict=True):
            assert len(found.tokens) == 60
            assert_plain(request, found)
        assert max(peak) <= 512
        firsts = list(harness.found)
        assert firsts == sorted(firsts)
    finally:
        harness.engine.close()


def test_cancelling_ends_running_and_waiting_sequences_once(engine: TorchHarness) -> None:
    requests = [ask(prompt_of(10, i), max_tokens=1500, ignore_eos=True) for i in range(12)]
    engine.engine.submit(requests)
    engine.wait(lambda: engine.has_started(requests[0]))
    engine.engine.cancel([r.key for r in requests] + [987654321])
    engine.engine.cancel([r.key for r in requests])
    engine.wait(lambda: all(map(engine.has_finished, requests)))
    engine.run(ask(prompt_of(3), max_tokens=1))
    for request in requests:
        finishes = [d.finish for d in engine.found[request.key].deltas if d.finish]
        assert finishes == ["abort"]
    assert engine.engine.progress().running == 0
    assert 987654321 not in engine.found


def test_an_exception_or_a_nan_ends_only_the_sequence_that_causes_it() -> None:
    def processor(ids: Sequence[Sequence[int]], logits: Any) -> Any:
        for row, tokens in enumerate(ids):
            if tokens[0] == 13:
                raise RuntimeError("unlucky")
            if tokens[0] == 17:
                logits[row] = torch.nan
        return logits

    harness = TorchHarness(slots=8, logits_processor=processor)
    good = [ask([20 + i, *prompt_of(9, i)], seed=i, ignore_eos=True) for i in range(4)]
    bad = [ask([first, *prompt_of(9)], ignore_eos=True) for first in (13, 17)]
    try:
        found = harness.run(good[0], bad[0], good[1], bad[1], good[2], good[3])
        for one in (found[1], found[3]):
            assert one.finish == "error"
            assert isinstance(one.error, EngineFailed)
        for request in good:
            assert_plain(request, harness.found[request.key])
        again = ask(prompt_of(30))
        assert_plain(again, harness.run(again)[0])
    finally:
        harness.engine.close()


PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 0.9},
    "top-k": {"top_k": 20},
    "top-p": {"top_p": 0.8, "temperature": 0.7},
    "min-p": {"min_p": 0.1, "temperature": 1.3},
    "all truncations": {"top_k": 30, "top_p": 0.9, "min_p": 0.02},
    "repetition": {"repetition_penalty": 1.4},
    "presence and frequency": {"presence_penalty": 0.8, "frequency_penalty": -0.5},
    "greedy with all penalties": {
        "temperature": 0,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
    },
    "bias": {"logit_bias": {5: 3.0, 900: -4.0, 77: 12.0}},
    "min_tokens": {"min_tokens": 6, "logit_bias": {2: 40.0}},
    "raw": {"logprobs_mode": "raw", "temperature": 0.5, "top_k": 5, "presence_penalty": 1.0},
    "raw greedy": {"logprobs_mode": "raw", "temperature": 0, "repetition_penalty": 2.0},
}


@pytest.mark.parametrize("values", PARAMS.values(), ids=PARAMS.keys())
def test_logprobs_and_candidates_are_those_of_the_definition(
    engine: TorchHarness, values: dict[str, Any]
) -> None:
    prompt = prompt_of(12, 3)
    request = ask(prompt, seed=5, max_tokens=12, **{**values, "logprobs": 8})
    others = [ask(prompt_of(6, i), seed=i, max_tokens=9) for i in range(3)]
    found = engine.run(request, *others)[0]
    params = request.params
    logits = reference().logits([*prompt, *found.tokens])[len(prompt) - 1 : -1]
    ids, scores = found.top(8)
    for position, row in enumerate(logits):
        changed = edited_logits(row, prompt, found.tokens[:position], params, [2])
        drawn_from = processed(changed, params)
        token = found.tokens[position]
        assert drawn_from[token] > -np.inf
        if params.temperature == 0:
            assert drawn_from.max() - drawn_from[token] <= TOLERANCE
        expected = log_softmax(row) if params.logprobs_mode == "raw" else drawn_from
        assert abs(expected[token] - found.logprobs[position]) <= TOLERANCE
        assert ids[position][0] == token
        kept = [i for i in ids[position] if i >= 0]
        assert len(kept) == len(set(kept)) == min(8, int((expected > -np.inf).sum()))
        assert np.isnan(scores[position][len(kept) :]).all()
        assert np.abs(expected[kept] - scores[position][: len(kept)]).max() <= TOLERANCE
        assert (np.diff(scores[position][1 : len(kept)]) <= 0).all()
        others_best = np.sort(np.delete(expected, token))[::-1][: len(kept) - 1]
        assert np.abs(others_best - scores[position][1 : len(kept)]).max(initial=0) <= TOLERANCE


def test_bad_words_and_stops_and_lengths(engine: TorchHarness) -> None:
    prompt = prompt_of(15, 8)
    free = engine.run(ask(prompt, temperature=0, max_tokens=10, ignore_eos=True))[0].tokens
    found = engine.run(
        ask(prompt, temperature=0, max_tokens=10, ignore_eos=True, bad_words=[free[2:5]]),
        ask(prompt, temperature=0, max_tokens=10, ignore_eos=True, bad_words=[free[:1]]),
        ask(prompt, temperature=0, max_tokens=10, ignore_eos=True, stop_token_ids=[free[4]]),
        ask(prompt, max_tokens=10, logit_bias={2: 100.0}),
        ask(prompt, max_tokens=10, logit_bias={2: 100.0}, min_tokens=4),
        ask(prompt_of(2040), max_tokens=None, ignore_eos=True),
    )
    assert found[0].tokens[:4] == free[:4]
    assert found[0].tokens[4] != free[4]
    assert free[0] not in found[1].tokens
    assert found[2].tokens == free[: free.index(free[4]) + 1]
    assert found[2].finish == "stop"
    assert (found[3].tokens, found[3].finish) == ([2], "stop")
    assert found[4].tokens.index(2) == 4
    assert (len(found[5].tokens), found[5].finish) == (8, "length")


CUTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.0},
    "penalties": {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.7,
        "temperature": 0.8,
    },
    "min_tokens": {"min_tokens": 9, "logit_bias": {2: 30.0}},
    "bad words and top-p": {"top_p": 0.9, "bad_words": [[5], [600, 601]]},
    "adapter": {"adapter": "a1", "temperature": 0.7},
}


@pytest.mark.parametrize("values", CUTS.values(), ids=CUTS.keys())
def test_a_continuation_from_every_position_draws_what_the_uncut_run_drew(
    engine: TorchHarness, values: dict[str, Any]
) -> None:
    prompt = prompt_of(21, 4)
    values = {"max_tokens": 12, "seed": 99, **values}
    uncut = engine.run(ask(prompt, **values))[0]
    cuts = [ask(prompt, output=uncut.tokens[:at], **values) for at in range(1, len(uncut.tokens))]
    for at, found in enumerate(engine.run(*cuts), start=1):
        assert found.tokens == uncut.tokens[at:]
        assert found.finish == uncut.finish
        assert np.abs(found.logprobs - uncut.logprobs[at:]).max() <= TOLERANCE
    done = ask(prompt, output=uncut.tokens, **{**values, "max_tokens": len(uncut.tokens)})
    assert (engine.run(done)[0].tokens, engine.found[done.key].finish) == ([], "length")


def test_the_batch_invariant_mode_gives_equal_bits() -> None:
    harness = started(slots=4, kv_tokens=2048, prefill_tokens=16, batch_invariant=True)
    prompt = prompt_of(50, 6)
    try:
        request = ask(prompt, seed=3, max_tokens=10, ignore_eos=True)
        alone = harness.run(request)[0]
        crowd = [ask(prompt_of(9 + i, i), seed=i, adapter="a1") for i in range(6)]
        again = ask(prompt, seed=3, max_tokens=10, ignore_eos=True)
        cut = ask(prompt, output=alone.tokens[:4], seed=3, max_tokens=10, ignore_eos=True)
        found = harness.run(*crowd[:3], again, *crowd[3:], cut)
        assert found[3].tokens == alone.tokens
        assert found[3].logprobs.tobytes() == alone.logprobs.tobytes()
        assert found[-1].tokens == alone.tokens[4:]
        assert found[-1].logprobs.tobytes() == alone.logprobs[4:].tobytes()
    finally:
        harness.engine.close()


def test_prompts_are_scored_with_and_without_output(engine: TorchHarness) -> None:
    prompt = prompt_of(70, 2)
    requests = [
        ask(prompt, max_tokens=0, prompt_logprobs=3, scores=True),
        ask(prompt, max_tokens=5, prompt_logprobs=1, scores=True, temperature=0.3),
        ask(prompt, max_tokens=0, prompt_logprobs=0, scores=True, adapter="a2"),
        ask([9], max_tokens=2, prompt_logprobs=2, scores=True),
    ]
    for request, found in zip(requests, engine.run(*requests), strict=True):
        assert len(found.tokens) == request.max_total
        assert found.finish in {"length", "stop"}
        scores = [d.prompt for d in found.deltas if d.prompt is not None]
        assert len(scores) == 1
        got = np.frombuffer(scores[0].logprobs, "<f4")
        size, k = len(request.prompt_ids), scores[0].k
        assert k == request.params.prompt_logprobs
        assert np.isnan(got[0])
        assert len(got) == size
        rows = plain_logprobs(request, [])
        expected = rows[np.arange(size - 1), request.prompt_ids[1:]]
        assert np.abs(expected - got[1:]).max(initial=0) <= TOLERANCE
        best = np.frombuffer(scores[0].top_logprobs, "<f4").reshape(size, k)
        ids = np.frombuffer(scores[0].top_ids, "<i4").reshape(size, k)
        assert (ids[0] == -1).all()
        if k and size > 1:
            wanted = -np.sort(-rows, axis=1)[:, :k]
            assert np.abs(wanted - best[1:]).max() <= TOLERANCE
            chosen = np.take_along_axis(rows, ids[1:].astype(np.int64), 1)
            assert np.abs(chosen - best[1:]).max() <= TOLERANCE


def test_seeds_rule_the_draws_and_nothing_global_is_touched(engine: TorchHarness) -> None:
    prompt = prompt_of(8, 1)
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())
    children = [ask(prompt, seed=seed, group=3, max_tokens=6) for seed in (1, 2, 3, 2**64 - 1, 1)]
    unseeded = [ask(prompt, seed=None, group=3, max_tokens=6) for _ in range(3)]
    found = [tuple(f.tokens) for f in engine.run(*children, *unseeded)]
    assert found[0] == found[4]
    assert len(set(found)) == 7
    assert torch.equal(torch_state, torch.get_rng_state())
    assert numpy_state == str(np.random.get_state())


def test_tokens_are_drawn_with_their_probabilities(engine: TorchHarness) -> None:
    prompt = prompt_of(5, 12)
    count = 2000
    requests = [
        ask(prompt, seed=seed * 7919, group=1, max_tokens=1, top_k=6, temperature=1.5)
        for seed in range(count)
    ]
    drawn = np.array([f.tokens[0] for f in engine.run(*requests)])
    row = reference().logits(prompt)[-1]
    shares = np.exp(processed(row.astype(np.float64), requests[0].params))
    kept = np.flatnonzero(shares)
    seen = np.array([(drawn == token).sum() for token in kept])
    assert seen.sum() == count
    chi_square = ((seen - count * shares[kept]) ** 2 / (count * shares[kept])).sum()
    # 99.99 % of chi-square with 5 degrees of freedom; the seeds are fixed, so is the outcome.
    assert chi_square < 25.7


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"prompt": []}, "prompt_ids"),
    "prompt as long as the context": ({"prompt": [5] * 2048}, "prompt_ids"),
    "token id out of range": ({"prompt": [5, 1024]}, "prompt_ids"),
    "negative token id": ({"prompt": [5, -1]}, "prompt_ids"),
    "output id out of range": ({"output": [4096]}, "output_ids"),
    "stop id out of range": ({"stop_token_ids": [4096]}, "stop_token_ids"),
    "bias on no token": ({"logit_bias": {4096: 1.0}}, "logit_bias"),
    "bad word without tokens": ({"bad_words": [[]]}, "bad_words"),
    "unknown adapter": ({"adapter": "nobody"}, "adapter"),
}


def test_adapters_that_come_and_go_leave_nothing(engine: TorchHarness) -> None:
    directory = tiny_adapter("a3")
    tensors = len(parse_safetensors((directory / TENSORS_FILE).read_bytes(), "a3"))

    def come_and_go(times: int) -> int:
        """Objects of the interpreter that are more than before."""
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(times):
            engine.engine.load_adapter("a3", directory)
            engine.engine.unload_adapter("a3")
        gc.collect()
        return sys.getallocatedblocks() - before

    come_and_go(5)
    # One of each tensor would be a leak; what caches and other threads take is less.
    assert come_and_go(20) < 20 * tensors / 2


def test_bad_requests_are_refused_one_by_one(engine: TorchHarness) -> None:
    good = ask(prompt_of(5))
    bad = [ask(**{"prompt": prompt_of(4), **values}) for values, _ in BAD.values()]
    twice = EngineRequest(good.key, good.prompt_ids, good.output_ids, good.params, good.max_total)
    found = engine.run(good, *bad)
    assert_plain(good, found[0])
    for (_, field), one in zip(BAD.values(), found[1:], strict=True):
        assert (one.finish, one.error and one.error.field) == ("error", field)
        assert one.tokens == []
    running = ask(prompt_of(5), max_tokens=400, ignore_eos=True)
    engine.engine.submit([running, running])
    engine.wait(lambda: engine.has_started(running))
    assert isinstance(engine.found[running.key].deltas[0].error, InvalidRequest)
    engine.engine.cancel([running.key])
    engine.wait(lambda: len([d for d in engine.found[running.key].deltas if d.finish]) == 2)
    assert twice.key == good.key


def test_closing_aborts_what_is_unfinished_and_refuses_more() -> None:
    harness = TorchHarness(slots=1)
    requests = [ask(prompt_of(5), max_tokens=1500, ignore_eos=True) for _ in range(3)]
    harness.engine.submit(requests)
    harness.wait(lambda: harness.has_started(requests[0]))
    harness.engine.close()
    assert [harness.found[r.key].finish for r in requests] == ["abort"] * 3
    with pytest.raises(EngineDead):
        harness.engine.submit(requests)


def test_a_step_that_cannot_be_planned_fails_what_runs_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = TorchHarness(slots=2)
    memory = harness.engine._started()._memory
    place = memory.place
    fails = [True]

    def failing(length: int) -> Any:
        if fails.pop():
            raise MemoryError("no slab")
        return place(length)

    monkeypatch.setattr(memory, "place", failing)
    found = harness.run(ask(prompt_of(5)))[0]
    assert isinstance(found.error, EngineFailed)
    monkeypatch.setattr(memory, "place", place)
    request = ask(prompt_of(5))
    assert_plain(request, harness.run(request)[0])
    harness.engine.close()


def test_an_engine_that_dies_answers_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = TorchHarness(slots=1)
    core = harness.engine._started()

    def broken() -> None:
        raise RuntimeError("the device has gone")

    monkeypatch.setattr(core, "step", broken)
    for found in harness.run(ask(prompt_of(5)), ask(prompt_of(5))):
        assert isinstance(found.error, EngineDead)
    with pytest.raises(EngineDead):
        harness.engine.submit([ask(prompt_of(5))])
    harness.engine.close()
