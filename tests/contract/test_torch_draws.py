"""What the torch engine draws and scores: by the definition of every parameter, the same from any
position, and with its seed alone."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests import torch_plain  # noqa: E402
from tests.reference import TOLERANCE, log_softmax, processed, reference  # noqa: E402
from tests.reference import edited as edited_logits  # noqa: E402
from tests.torch_harness import TorchHarness, ask, prompt_of  # noqa: E402
from tests.torch_plain import plain_logprobs, started  # noqa: E402

engine = torch_plain.engine


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
