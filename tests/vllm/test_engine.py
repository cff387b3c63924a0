"""The vLLM engine as an engine: equal to plain forward passes of transformers and PEFT, whatever
shares the batch; and every trap of vLLM's adapters shut."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.reference import edited, log_softmax, processed, reference
from tests.tiny_adapters import tiny_adapter
from tests.torch_harness import Collected, ask, prompt_of
from tests.vllm_harness import IS_CPU, TOLERANCE, VllmHarness

from sampler_api.errors import (
    AdapterCapacity,
    AdapterInvalid,
    AdapterMissing,
    AdapterUnsupported,
)
from sampler_server.engines.base import EngineRequest
from sampler_server.engines.vllm import adapters

ADAPTERS = ("a1", "a2", "a3", "attention_only")


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmHarness]:
    """Fewer adapters a step than are held; on a GPU small steps too, so that prompts come in
    pieces."""
    args: dict[str, Any] = {"max_loras": 3, "block_size": 32}
    if not IS_CPU:
        args["max_num_batched_tokens"] = 64
    with VllmHarness(max_adapters=5, max_lora_rank=9, engine_args=args) as harness:
        for name in ADAPTERS:
            harness.engine.load_adapter(name, tiny_adapter(name))
        yield harness


def rows_of(request: EngineRequest, found: Collected) -> NDArray[np.float64]:
    """Raw logprobs f64 [T, V] of a plain forward pass at the tokens that were made."""
    ids = [*request.prompt_ids.tolist(), *request.output_ids.tolist(), *found.tokens]
    logits = reference().logits(ids, request.adapter)[-len(found.tokens) - 1 : -1]
    return np.array([log_softmax(row) for row in logits])


def assert_plain(request: EngineRequest, found: Collected) -> None:
    rows = rows_of(request, found)
    expected = rows[np.arange(len(rows)), found.tokens]
    assert np.abs(expected - found.logprobs).max() <= TOLERANCE
    if request.params.temperature == 0:
        assert (rows.max(1) - expected).max() <= TOLERANCE


def test_base_and_four_adapters_in_one_moving_batch_equal_plain_forward_passes(
    engine: VllmHarness,
) -> None:
    rng = np.random.default_rng(1)
    requests = [
        ask(
            prompt_of(int(rng.integers(1, 150)), seed),
            seed=seed,
            adapter=(None, *ADAPTERS)[seed % 5],
            temperature=float(seed % 2),
            max_tokens=int(rng.integers(1, 40)),
            ignore_eos=True,
        )
        for seed in range(40)
    ]
    for request, found in zip(requests, engine.run(*requests), strict=True):
        assert found.error is None
        assert len(found.tokens) == request.max_total
        assert found.finish == "length"
        assert_plain(request, found)


def test_seeded_prompts_that_fill_several_steps_end_nobody(engine: VllmHarness) -> None:
    # vLLM on a CPU dies of the second: it would be read in pieces, and has a generator.
    requests = [ask(prompt_of(1900, seed), seed=seed, max_tokens=2) for seed in range(5)]
    for request, found in zip(requests, engine.run(*requests), strict=True):
        assert found.error is None
        assert_plain(request, found)


def test_rows_of_the_base_are_exact_beside_one_adapter(engine: VllmHarness) -> None:
    # vLLM on a CPU gives them the adapter of its last slot.
    base = [ask(prompt_of(30, seed), temperature=0, max_tokens=4) for seed in range(3)]
    other = [
        ask(prompt_of(30, seed), temperature=0, max_tokens=4, adapter="a2") for seed in range(3)
    ]
    mixed = [request for pair in zip(base, other, strict=True) for request in pair]
    for request, found in zip(mixed, engine.run(*mixed), strict=True):
        assert_plain(request, found)


def test_prompts_of_several_adapters_are_scored_in_one_batch(engine: VllmHarness) -> None:
    # With the output layer wrapped for adapters, this ends vLLM.
    requests = [
        ask(
            prompt_of(100, seed),
            adapter=adapter,
            max_tokens=0,
            prompt_logprobs=3,
            scores=True,
        )
        for seed, adapter in enumerate((None, *ADAPTERS))
    ]
    for request, found in zip(requests, engine.run(*requests), strict=True):
        assert found.finish == "length"
        assert found.tokens == []
        scores = next(d.prompt for d in found.deltas if d.prompt is not None)
        prompt = request.prompt_ids.tolist()
        rows = reference().prompt_logprobs(prompt, request.adapter)
        logprobs = np.frombuffer(scores.logprobs, "<f4")
        assert np.isnan(logprobs[0])
        expected = rows[np.arange(len(rows)), prompt[1:]]
        assert np.abs(logprobs[1:] - expected).max() <= TOLERANCE
        best = np.frombuffer(scores.top_logprobs, "<f4").reshape(-1, 3)[1:]
        assert np.abs(best - np.sort(rows)[:, :-4:-1]).max() <= TOLERANCE


def assert_ruled(request: EngineRequest, found: Collected, words: Sequence[Sequence[int]]) -> None:
    """Logprobs are those of the distribution that the parameters describe; at temperature 0 each
    token is its best."""
    params, prompt = request.params, request.prompt_ids.tolist()
    output = [*request.output_ids.tolist(), *found.tokens]
    logits = reference().logits([*prompt, *output])[len(prompt) - 1 : -1]
    for place, token in enumerate(found.tokens):
        position = len(output) - len(found.tokens) + place
        row = edited(
            logits[position], prompt, output[:position], params, reference().eos_ids, words
        )
        scale = 1 if not params.temperature else 1 / params.temperature
        expected = processed(row, params)
        assert abs(expected[token] - found.logprobs[place]) <= TOLERANCE * max(1, scale)
        if params.temperature == 0:
            assert row[token] >= row.max() - TOLERANCE


RULES: dict[str, dict[str, Any]] = {
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 1.2},
    "repetition": {"repetition_penalty": 1.7},
    "all penalties": {
        "presence_penalty": 0.6,
        "frequency_penalty": 0.4,
        "repetition_penalty": 1.3,
        "logit_bias": {300: 4.0, 301: 4.0},
    },
    "min_tokens": {"min_tokens": 8, "logit_bias": {2: 100.0}},
    "bad words": {"words": True},
    "a cold temperature": {"temperature": 0.004},
    "a hot temperature": {"temperature": 3.0, "presence_penalty": 0.5},
}


@pytest.mark.parametrize("rule", RULES)
def test_continued_anywhere_a_sequence_is_what_the_rules_say(
    engine: VllmHarness, rule: str
) -> None:
    params = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": False, **RULES[rule]}
    has_words = params.pop("words", False)
    prompt = prompt_of(25, 3)
    words: list[list[int]] = []
    (whole,) = engine.run(ask(prompt, **params))
    if has_words:
        made = whole.tokens
        words = [[made[0]], made[3:5], made[5:8]]
        (whole,) = engine.run(ask(prompt, bad_words=words, **params))
        text = whole.tokens
        assert made[0] not in text
    assert_ruled(ask(prompt, bad_words=words, **params), whole, words)
    output = whole.tokens
    cuts = [
        ask(prompt, output=output[:cut], bad_words=words, **params) for cut in range(1, len(output))
    ]
    for request, found in zip(cuts, engine.run(*cuts), strict=True):
        done = len(request.output_ids)
        if params["temperature"] == 0 or rule == "a cold temperature":
            # In 16 bits two candidates may change places from batch to batch.
            assert found.tokens == output[done:] or not IS_CPU
        assert_ruled(request, found, words)
        assert found.finish == ("length" if done + len(found.tokens) == 12 else "stop")


def test_candidates_of_a_truncated_distribution(engine: VllmHarness) -> None:
    rules: list[dict[str, Any]] = [{"top_k": 3}, {"top_p": 0.2}, {"min_p": 0.5}, {}]
    requests = [
        ask(prompt_of(20, seed), logprobs=5, max_tokens=6, **params)
        for seed, params in enumerate(rules)
    ]
    for request, found in zip(requests, engine.run(*requests), strict=True):
        ids, scores = found.top(5)
        for token, row, best, values in zip(
            found.tokens, rows_of(request, found), ids, scores, strict=True
        ):
            expected = processed(row, request.params)
            kept = int(np.isfinite(expected).sum())
            assert best[0] == token
            assert (best >= 0).sum() == min(5, kept)
            held = best[best >= 0]
            assert np.abs(expected[held] - values[: len(held)]).max() <= TOLERANCE
            assert len(set(held.tolist())) == len(held)


def test_a_cancelled_sequence_ends_with_abort_and_frees_its_place(engine: VllmHarness) -> None:
    long = ask(prompt_of(10), max_tokens=1500, ignore_eos=True)
    engine.engine.submit([long])
    engine.wait(lambda: engine.has_started(long))
    engine.engine.cancel([long.key])
    engine.wait(lambda: engine.has_finished(long))
    assert engine.found[long.key].finish == "abort"
    assert sum(d.finish is not None for d in engine.found[long.key].deltas) == 1
    engine.run(ask(prompt_of(10)))
    assert engine.engine.progress().running == 0


def test_one_that_is_cancelled_with_its_submission_does_not_run_on(engine: VllmHarness) -> None:
    requests = [ask(prompt_of(10, s), max_tokens=1500, ignore_eos=True) for s in range(8)]
    engine.engine.submit(requests)
    engine.engine.cancel([request.key for request in requests])
    engine.wait(lambda: all(map(engine.has_finished, requests)))
    (after,) = engine.run(ask(prompt_of(10)))
    assert after.finish == "length"
    steps = engine.engine.progress().steps
    engine.run(ask(prompt_of(10), max_tokens=2))
    # With sequences left behind, vLLM would go on by itself.
    assert engine.engine.progress().steps - steps < 10


def test_an_adapter_that_is_not_loaded_is_an_error_of_its_sequences(engine: VllmHarness) -> None:
    (found,) = engine.run(ask(prompt_of(10), adapter="nobody"))
    assert isinstance(found.error, AdapterMissing)


def test_files_that_go_after_the_load_are_not_missed(engine: VllmHarness, tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    shutil.copytree(tiny_adapter("rslora"), directory)
    engine.engine.load_adapter("rslora", directory)
    shutil.rmtree(directory)
    # More adapters than a step has slots for: each is pushed out of its slot and comes back.
    names = (*ADAPTERS, "rslora")
    for turn in range(2):
        requests = [
            ask(prompt_of(20, turn), adapter=name, temperature=0, max_tokens=3) for name in names
        ]
        for request, found in zip(requests, engine.run(*requests), strict=True):
            assert_plain(request, found)
    engine.engine.unload_adapter("rslora")


def test_one_path_with_new_content_gives_new_weights(engine: VllmHarness, tmp_path: Path) -> None:
    directory = tmp_path / "policy"
    prompt = prompt_of(80, 9)
    for kind in ("rslora", "first_layer_only"):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(tiny_adapter(kind), directory)
        engine.engine.load_adapter(kind, directory)
        for _ in range(2):
            request = ask(prompt, adapter=kind, temperature=0, max_tokens=3)
            (found,) = engine.run(request)
            assert_plain(request, found)
        engine.engine.unload_adapter(kind)


def test_patterns_are_served_or_refused(
    engine: VllmHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # vLLM 0.25 overlooks them, and serves other weights.
    if not adapters._IGNORED:
        engine.engine.load_adapter("patterns", tiny_adapter("rank_pattern"))
        request = ask(prompt_of(60), temperature=0, max_tokens=3)
        request = msgspec.structs.replace(request, adapter="patterns")
        (found,) = engine.run(request)
        rows = reference().logits([*prompt_of(60), *found.tokens], "rank_pattern")
        expected = [log_softmax(row)[t] for row, t in zip(rows[-4:-1], found.tokens, strict=True)]
        assert np.abs(np.array(expected) - found.logprobs).max() <= TOLERANCE
        engine.engine.unload_adapter("patterns")
        monkeypatch.setattr(adapters, "_IGNORED", ["rank_pattern"])
    with pytest.raises(AdapterUnsupported, match="rank_pattern"):
        engine.engine.load_adapter("patterns", tiny_adapter("rank_pattern"))


def test_one_digest_that_comes_back_has_a_new_number(engine: VllmHarness) -> None:
    flow = engine.engine._started()
    engine.engine.load_adapter("again", tiny_adapter("a1"))
    first = flow.adapters.find("again")
    engine.engine.unload_adapter("again")
    engine.engine.load_adapter("again", tiny_adapter("a1"))
    second = flow.adapters.find("again")
    engine.engine.unload_adapter("again")
    assert first is not None
    assert second is not None
    assert second.lora_int_id > first.lora_int_id
    assert second.lora_name != first.lora_name


def test_an_adapter_is_freed_only_behind_its_last_sequence(
    engine: VllmHarness, tmp_path: Path
) -> None:
    directory = tmp_path / "short"
    shutil.copytree(tiny_adapter("rslora"), directory)
    engine.engine.load_adapter("rslora", directory)
    request = ask(prompt_of(10), adapter="rslora", temperature=0, max_tokens=200, ignore_eos=True)
    engine.engine.submit([request])
    engine.wait(lambda: engine.has_started(request))
    shutil.rmtree(directory)
    engine.engine.unload_adapter("rslora")
    assert engine.has_finished(request)
    assert_plain(request, engine.found[request.key])


@pytest.mark.parametrize("kind", ["rank_64", "dora", "modules_to_save", "absent", "no weights"])
def test_what_vllm_refuses_leaves_nothing_behind(
    engine: VllmHarness, tmp_path: Path, kind: str
) -> None:
    directory = tmp_path / "bad"
    if kind == "no weights":
        shutil.copytree(tiny_adapter("a1"), directory)
        (directory / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    elif kind != "absent":
        directory = tiny_adapter(kind)
    with pytest.raises(AdapterInvalid, match="vLLM does not load it"):
        engine.engine.load_adapter("bad", directory)
    (found,) = engine.run(ask(prompt_of(10), adapter="bad"))
    assert isinstance(found.error, AdapterMissing)
    request = ask(prompt_of(10), adapter="a1", temperature=0)
    (good,) = engine.run(request)
    assert_plain(request, good)


def test_more_adapters_than_are_held_are_refused(engine: VllmHarness) -> None:
    engine.engine.load_adapter("fifth", tiny_adapter("a1"))
    with pytest.raises(AdapterCapacity):
        engine.engine.load_adapter("sixth", tiny_adapter("a2"))
    engine.engine.unload_adapter("fifth")


def test_the_largest_rank_is_what_was_asked_for_and_vllm_gets_the_next_it_takes(
    engine: VllmHarness,
) -> None:
    from sampler_server.engines.vllm.arguments import LORA_RANKS, lora_rank

    assert engine.engine.info.max_lora_rank == 9
    assert [lora_rank(rank) for rank in (1, 2, 9, 65, 320)] == [1, 8, 16, 128, 320]
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    assert set(LORA_RANKS) == set(get_args(MaxLoRARanks))


def test_many_sequences_come_in_pieces_and_lone_ones_at_once(engine: VllmHarness) -> None:
    from sampler_server.engines.vllm.parameters import HAS_INTERVALS

    (lone,) = engine.run(ask(prompt_of(10), max_tokens=24, ignore_eos=True))
    if HAS_INTERVALS:
        # vLLM puts together what nobody has fetched meanwhile.
        assert len(lone.deltas) > 8
    many = [ask(prompt_of(10, s), max_tokens=24, ignore_eos=True) for s in range(32)]
    pieces = [len(found.deltas) for found in engine.run(*many)]
    assert max(pieces[8:]) <= 8


def test_no_statistics_are_taken_of_each_request(
    engine: VllmHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.metrics.stats import IterationStats

    taken: list[object] = []
    monkeypatch.setattr(IterationStats, "update_from_output", lambda *_: taken.append(1))
    steps = engine.engine.progress().steps
    [found] = engine.run(ask(prompt_of(5, 1), max_tokens=6, ignore_eos=True))
    assert (len(found.tokens), taken) == (6, [])
    assert engine.engine.progress().steps - steps >= 5
