"""The torch engine as an engine: equal to a plain forward pass, whatever shares the batch."""

import gc
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests import torch_plain  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import ARCHITECTURES, Architecture  # noqa: E402
from tests.torch_harness import TorchHarness, ask, prompt_of  # noqa: E402
from tests.torch_plain import ADAPTERS, assert_plain, started  # noqa: E402

from sampler_api.errors import EngineDead, EngineFailed, InvalidRequest  # noqa: E402
from sampler_core.adapters import TENSORS_FILE  # noqa: E402
from sampler_core.safetensors_file import parse_safetensors  # noqa: E402
from sampler_server.engines.base import EngineRequest  # noqa: E402

engine = torch_plain.engine


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
