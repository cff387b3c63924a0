"""Section 7 of docs/semantics.md: a sequence that was cut goes on as if it had not been.

Asked of the backend, which is what a sampler resumes with: a child whose columns hold the tokens
that were delivered.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.checks import FAMILIES, is_refused, prompts
from tests.reference import TOLERANCE, bisected, reference
from tests.samplers import has_gpu, is_of_vllm

from sampler_api.columns import Columns
from sampler_api.frames import ERROR, RevisionRef
from sampler_api.logprobs import LogprobRow
from sampler_api.params import SamplingParams
from sampler_core.base import SamplerBase
from sampler_core.groups import ChildWork, Group

REF = reference()
SEED = 1234567
# At temperature 0 these two end with their first token: there is nothing to cut.
CASES = [
    pytest.param(family, greedy, id=f"{family}, {'greedy' if greedy else 'seeded'}")
    for family in FAMILIES
    for greedy in (True, False)
    if not (greedy and family in ("likely end", "stop ids"))
]


def rows_of(child: ChildWork) -> list[LogprobRow]:
    """The child's logprob rows as lists."""
    _, rows = child.columns.arrays()
    assert rows is not None
    return rows.tolist()


def tokens_of(child: ChildWork) -> list[int]:
    tokens: list[int] = child.columns.token_ids.tolist()
    return tokens


def delivered(child: ChildWork, length: int) -> Columns:
    """The first tokens of a child, as they had arrived when it was cut."""
    ids, rows = child.columns.arrays()
    assert rows is not None
    width = child.columns.k
    columns = Columns(width)
    columns.tokens += ids[:length].tobytes()
    if width == 1:
        columns.logprobs += rows.sampled[:length].tobytes()
    for row in rows.tolist()[:length] if width > 1 else []:
        filler = [(-1, float("nan"))] * (width - len(row))
        columns.top_ids += np.array([i for i, _ in row + filler], np.int32).tobytes()
        columns.top_logprobs += np.array([v for _, v in row + filler], np.float32).tobytes()
    return columns


def run(
    sampler: SamplerBase,
    prompt: list[int],
    params: SamplingParams,
    starts: Sequence[Columns | None],
    seeds: Sequence[int | None],
) -> list[Group]:
    """One group per start, all in the backend at once."""
    backend = sampler._backend
    done = threading.Event()
    left = len(starts)
    if not left:
        return []

    def on_done(group: Group) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    groups = []
    ref = RevisionRef(backend.card().base)
    ids = np.array(prompt, np.int32)
    for index, start in enumerate(starts):
        group = Group(index, ids, params, ref, seeds, index, on_done)
        if start is not None:
            for child in group.children:
                child.columns.extend(start)
        groups.append(group)
    backend.submit(groups)
    assert done.wait(30)
    for group in groups:
        for child in group.children:
            assert child.flag != ERROR, child.error
    return groups


def assert_same(found: ChildWork, whole: ChildWork, cut: int) -> None:
    """Equal but for a place where two candidates are too close to call."""
    tokens, expected = tokens_of(found), tokens_of(whole)
    assert tokens == expected, f"cut at {cut}"
    assert (found.flag, found.matched) == (whole.flag, whole.matched), f"cut at {cut}"
    for row, expected_row in zip(rows_of(found), rows_of(whole), strict=True):
        assert [token for token, _ in row][:1] == [token for token, _ in expected_row][:1]
        values, wanted = ([value for _, value in each] for each in (row, expected_row))
        np.testing.assert_allclose(values, wanted, rtol=0, atol=TOLERANCE)


def assert_possible(
    found: ChildWork,
    whole: ChildWork,
    cut: int,
    prompt: list[int],
    params: SamplingParams,
    is_bisected: bool,
) -> None:
    """The delivered tokens and then other draws of the right distribution, marked as such."""
    tokens = tokens_of(found)
    assert tokens[:cut] == tokens_of(whole)[:cut]
    assert not found.segments[-1].reproducible
    _, rows = found.columns.arrays()
    assert rows is not None
    expected = REF.rows(prompt, tokens, params)
    for position in range(cut, len(tokens)):
        _, changed, shaped = expected[position]
        allowed = bisected(changed, params) if is_bisected else [shaped]
        errors = [abs(row[tokens[position]] - rows.sampled[position]) for row in allowed]
        assert min(errors) <= TOLERANCE


@pytest.mark.rule("S7.1", "S7.2", "S7.5")
@pytest.mark.parametrize(("family", "greedy"), CASES)
def test_cut_at_any_token_a_sequence_goes_on_the_same(
    sampler: SamplerBase, kind: str, family: str, greedy: bool
) -> None:
    params = SamplingParams.of({"max_tokens": 14, "logprobs": 1, **FAMILIES[family]})
    if greedy:
        params.temperature = 0.0
    if is_refused(sampler, params):
        return
    is_same = greedy or sampler._backend.card().is_reproducible
    is_bisected = params.top_p < 1 and is_of_vllm(kind) and has_gpu()
    number = 0
    for prompt in prompts(REF)[:2]:
        (group,) = run(sampler, prompt, params, [None], [SEED, SEED + 1])
        for whole, seed in zip(group.children, (SEED, SEED + 1), strict=True):
            cuts = range(1, len(whole.columns))
            starts = [delivered(whole, cut) for cut in cuts]
            for cut, again in zip(cuts, run(sampler, prompt, params, starts, [seed]), strict=True):
                if is_same:
                    assert_same(again.children[0], whole, cut)
                else:
                    assert_possible(again.children[0], whole, cut, prompt, params, is_bisected)
                number += 1
    assert number > 3, "the sequences are too short to be cut"


@pytest.mark.rule("S7.1")
def test_delivered_tokens_count_towards_the_length(sampler: SamplerBase) -> None:
    params = SamplingParams(max_tokens=9, ignore_eos=True, logprobs=1)
    (group,) = run(sampler, [5, 6, 7], params, [None], [SEED])
    (again,) = run(sampler, [5, 6, 7], params, [delivered(group.children[0], 6)], [SEED])
    assert len(again.children[0].columns) == 9


@pytest.mark.rule("S7.1")
def test_delivered_tokens_are_output_to_the_penalties(sampler: SamplerBase) -> None:
    # Taken for prompt, the delivered tokens would get no presence penalty and be drawn again.
    params = SamplingParams(
        temperature=0,
        max_tokens=8,
        logprobs=1,
        ignore_eos=True,
        presence_penalty=2.0,
        frequency_penalty=2.0,
        logit_bias=dict.fromkeys(range(300, 309), 9.0),
    )
    (group,) = run(sampler, [5, 6, 7], params, [None], [None])
    whole = tokens_of(group.children[0])
    assert len(set(whole)) > 4
    for cut in range(1, 8):
        (again,) = run(sampler, [5, 6, 7], params, [delivered(group.children[0], cut)], [None])
        assert tokens_of(again.children[0]) == whole


@pytest.mark.rule("S7.3")
def test_prompt_logprobs_are_not_computed_again(sampler: SamplerBase) -> None:
    params = SamplingParams(max_tokens=6, logprobs=1, prompt_logprobs=2, ignore_eos=True)
    (group,) = run(sampler, [5, 6, 7], params, [None], [SEED])
    assert group.prompt_scores is not None
    (again,) = run(sampler, [5, 6, 7], params, [delivered(group.children[0], 3)], [SEED])
    assert again.prompt_scores is None
    assert len(tokens_of(again.children[0])) == 6


@pytest.mark.rule("S7.2")
def test_unseeded_continuations_are_new_draws(sampler: SamplerBase) -> None:
    params = SamplingParams(max_tokens=10, logprobs=1, ignore_eos=True)
    (group,) = run(sampler, [5, 6, 7], params, [None], [None])
    start = delivered(group.children[0], 4)
    groups = run(sampler, [5, 6, 7], params, [start] * 4, [None])
    tokens: list[Any] = [tokens_of(each.children[0]) for each in groups]
    assert all(each[:4] == tokens[0][:4] for each in tokens)
    assert len({tuple(each) for each in tokens}) == 4
