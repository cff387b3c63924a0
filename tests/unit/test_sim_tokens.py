"""The arithmetic of the sim engine: exact continuation, and every change changes what follows."""

import numpy as np
import pytest

from sampler_server.engines.sim.model import VOCAB_SIZE, base_digest, tokenizer_files
from sampler_server.engines.sim.rows import prompt_scores
from sampler_server.engines.sim.tokens import (
    REGULAR_IDS,
    candidates,
    generate,
    logprobs_of,
    prefix_state,
    prefix_states,
    prompt_states,
    seed_keys,
    sim_sequence,
    weights_state,
)

BASE = base_digest()
PROMPT = [5, 250, 0, 17, 17]


def continued(prompt: list[int], output: list[int], length: int, seed: int = 7) -> list[int]:
    """``length`` tokens after ``prompt + output``, from the state as an engine computes it."""
    state = prefix_state(weights_state(BASE, None), np.array([*prompt, *output], np.int32))
    tokens, _, _ = generate(np.array([state], np.uint64), seed_keys([seed]), length)
    return [int(token) for token in tokens[0]]


def test_a_sequence_is_a_function_of_prompt_seed_and_weights() -> None:
    one = sim_sequence(PROMPT, 7, BASE, None, 32)
    assert one == sim_sequence(PROMPT, 7, BASE, None, 32)
    others = [
        sim_sequence([*PROMPT[:-1], 18], 7, BASE, None, 32),
        sim_sequence(PROMPT, 8, BASE, None, 32),
        sim_sequence(PROMPT, 7, base_digest("other"), None, 32),
        sim_sequence(PROMPT, 7, BASE, "sha256:aa", 32),
        sim_sequence(PROMPT[1:], 7, BASE, None, 32),
    ]
    assert all(other[0][:8] != one[0][:8] for other in others)


@pytest.mark.parametrize("cut", range(0, 17, 4))
def test_a_continuation_is_exact_at_every_cut(cut: int) -> None:
    tokens, _ = sim_sequence(PROMPT, 7, BASE, None, 24)
    assert continued(PROMPT, tokens[:cut], 24 - cut) == tokens[cut:]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t[:-1], id="a lost token"),
        pytest.param(lambda t: [*t, t[-1]], id="a doubled token"),
        pytest.param(lambda t: [*t[:3], t[3] ^ 1, *t[4:]], id="a changed token"),
        pytest.param(lambda t: [t[1], t[0], *t[2:]], id="two tokens swapped"),
    ],
)
def test_a_wrong_prefix_changes_everything_after_it(change) -> None:  # type: ignore[no-untyped-def]
    tokens, _ = sim_sequence(PROMPT, 7, BASE, None, 40)
    followed = continued(PROMPT, change(tokens[:8]), 32)
    same = sum(a == b for a, b in zip(followed, tokens[8:], strict=True))
    assert same <= 3


def test_many_prefixes_at_once_have_the_states_of_each_alone() -> None:
    prefixes = [np.arange(length, dtype=np.int32) for length in (1, 7, 1500, 3)]
    empty = np.array([weights_state(BASE, None)] * 4, np.uint64)
    states = prefix_states(empty, np.concatenate(prefixes), np.array([len(p) for p in prefixes]))
    assert states.tolist() == [prefix_state(int(empty[0]), prefix) for prefix in prefixes]


def test_the_states_along_a_prompt_are_the_states_of_its_prefixes() -> None:
    empty = weights_state(BASE, None)
    prompt = np.array(PROMPT, np.int32)
    along = prompt_states(empty, prompt).tolist()
    assert along == [prefix_state(empty, prompt[: i + 1]) for i in range(len(PROMPT))]


def test_scoring_a_completion_gives_the_logprobs_that_it_was_sampled_with() -> None:
    tokens, logprobs = sim_sequence(PROMPT, 7, BASE, None, 12)
    whole = np.array([*PROMPT, *tokens], np.int32)
    scores = np.frombuffer(prompt_scores(weights_state(BASE, None), whole, 0).logprobs, np.float32)
    assert np.isnan(scores[0])
    assert scores[len(PROMPT) :].tolist() == logprobs
    assert max(logprobs) < 0


def test_candidates_are_distinct_descending_and_agree_with_the_sampled_logprob() -> None:
    state = prefix_state(weights_state(BASE, None), np.array(PROMPT, np.int32))
    states = np.array([state], np.uint64)
    tokens, after, _ = generate(states, seed_keys([7]), 1)
    ids, values = candidates(states, VOCAB_SIZE, 20, tokens[0])
    assert ids[0, 0] == tokens[0, 0]
    assert values[0, 0] == logprobs_of(after[0])[0]
    assert len(set(ids[0].tolist())) == 20
    assert (np.diff(values[0, 1:]) <= 0).all()


def test_more_candidates_than_words_are_left_out() -> None:
    states = np.array([1], np.uint64)
    ids, values = candidates(states, VOCAB_SIZE, VOCAB_SIZE + 2)
    assert sorted(ids[0, :-2].tolist()) == list(range(VOCAB_SIZE))
    assert ids[0, -2:].tolist() == [-1, -1]
    assert np.isnan(values[0, -2:]).all()


def test_tokens_are_bytes_spread_evenly() -> None:
    tokens, _ = sim_sequence(PROMPT, 1, BASE, None, 4096)
    assert min(tokens) >= 0
    assert max(tokens) < REGULAR_IDS
    assert len(set(tokens)) == REGULAR_IDS


def test_blocked_ids_do_not_come_up_until_their_time() -> None:
    states = np.array([3], np.uint64)
    ids = frozenset(range(200))
    tokens, _, _ = generate(states, seed_keys([1]), 40, {0: (30, ids)})
    assert min(tokens[0, :30].tolist()) >= 200
    assert min(tokens[0, 30:].tolist()) < 200


def test_a_sequence_with_eos_ends_at_it() -> None:
    tokens, logprobs = sim_sequence(PROMPT, 3, BASE, None, 400, eos_rate=0.1)
    plain, _ = sim_sequence(PROMPT, 3, BASE, None, 400)
    assert tokens[-1] == REGULAR_IDS
    assert tokens[:-1] == plain[: len(tokens) - 1]
    assert len(logprobs) == len(tokens) < 400


def test_the_tokenizer_gives_every_byte_its_own_id() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_files()["tokenizer.json"].decode())
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    text = "a\n é漢<|im_end|>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == [*"a\n é漢".encode(), 258]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
