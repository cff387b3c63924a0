"""From vLLM's flat lists to columns."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sampler_api.errors import EngineFailed
from sampler_server.engines.vllm.columns import delta_of, scores_of

NAN, INF = float("nan"), float("inf")
Row = list[tuple[int, float]]


def flat(*rows: Row) -> Any:
    """vLLM's FlatLogprobs of rows of (token, logprob)."""
    ends = np.cumsum([len(row) for row in rows]).tolist()
    return SimpleNamespace(
        start_indices=[0, *ends[:-1]],
        end_indices=ends,
        token_ids=[token for row in rows for token, _ in row],
        logprobs=[logprob for row in rows for _, logprob in row],
    )


def completion(tokens: list[int], logprobs: Any = None, finish: str | None = None) -> Any:
    return SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=finish)


def ints(data: bytes) -> list[int]:
    return [int(value) for value in np.frombuffer(data, "<i4")]


def floats(data: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(data, "<f4")]


def test_tokens_alone() -> None:
    delta = delta_of(7, completion([3, 4]), 0)
    assert (delta.key, ints(delta.tokens), delta.logprobs, delta.finish) == (7, [3, 4], b"", None)


def test_the_drawn_token_of_each_row() -> None:
    delta = delta_of(7, completion([3, 4], flat([(3, -1.5)], [(4, -2.5)]), "length"), 1)
    assert floats(delta.logprobs) == [-1.5, -2.5]
    assert (delta.top_ids, delta.finish) == (b"", "length")


@pytest.mark.parametrize(
    ("row", "ids", "logprobs"),
    [
        pytest.param(
            [(3, -2.0), (5, -0.5), (6, -1.0)], [3, 5], [-2.0, -0.5], id="it is not among the best"
        ),
        pytest.param(
            [(3, -1.0), (5, -0.5), (3, -1.0)], [3, 5], [-1.0, -0.5], id="it is, and comes again"
        ),
        pytest.param([(3, -1.0), (5, -0.5)], [3, 5], [-1.0, -0.5], id="it is, and comes once"),
        pytest.param(
            [(3, -0.0), (3, -0.0), (5, -INF)], [3, -1], [0.0, NAN], id="others are masked out"
        ),
    ],
)
def test_the_drawn_token_and_then_the_best_others(
    row: Row, ids: list[int], logprobs: list[float]
) -> None:
    delta = delta_of(7, completion([3], flat(row)), 2)
    assert ints(delta.top_ids) == ids
    np.testing.assert_array_equal(floats(delta.top_logprobs), logprobs)


def test_rows_of_different_length_stay_apart() -> None:
    rows = flat([(3, -1.0), (5, -0.5), (6, -2.0)], [(4, -1.0), (8, -0.25)])
    delta = delta_of(7, completion([3, 4], rows), 2)
    assert ints(delta.top_ids) == [3, 5, 4, 8]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(completion([3], None), id="none at all"),
        pytest.param(completion([3, 4], flat([(3, -1.0)])), id="one row too few"),
        pytest.param(completion([3], flat([(3, -INF)])), id="an impossible token"),
        pytest.param(completion([3], flat([(3, NAN)])), id="no number"),
        pytest.param(completion([], finish="error"), id="an error of vLLM's"),
        pytest.param(completion([], finish="repetition"), id="an end that nobody asked for"),
    ],
)
def test_what_is_missing_or_wrong_is_an_error(given: Any) -> None:
    with pytest.raises(EngineFailed):
        delta_of(7, given, 1)


def test_scores_of_a_prompt_are_its_tokens_and_then_the_best() -> None:
    scores = scores_of(flat([], [(3, -3.0), (5, -0.5), (3, -3.0)], [(4, -1.0), (4, -1.0)] * 2), 2)
    np.testing.assert_array_equal(floats(scores.logprobs), [NAN, -3.0, -1.0])
    assert ints(scores.top_ids) == [-1, -1, 5, 3, 4, 4]
    np.testing.assert_array_equal(floats(scores.top_logprobs)[2:4], [-0.5, -3.0])
    assert scores.k == 2


def test_scores_without_the_best() -> None:
    scores = scores_of(flat([], [(3, -3.0)]), 0)
    np.testing.assert_array_equal(floats(scores.logprobs), [NAN, -3.0])
    assert (scores.top_ids, scores.top_logprobs) == (b"", b"")


def test_too_few_scores_are_an_error() -> None:
    with pytest.raises(EngineFailed):
        scores_of(flat([], [(3, -3.0)]), 2)
