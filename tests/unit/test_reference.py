"""The reference itself, on distributions that can be worked out by hand."""

import numpy as np
import pytest
from tests.reference import Row, bisected, edited, end_by_definition, log_softmax, processed

from sampler_api.params import SamplingParams

LOGITS: Row = np.log(np.array([0.4, 0.3, 0.2, 0.1]))


def shares(**params: float) -> list[float]:
    row = np.exp(processed(LOGITS, SamplingParams(**params)))  # type: ignore[arg-type]
    return [round(float(share), 6) for share in row]


def test_log_softmax_of_shares_is_their_logarithm() -> None:
    np.testing.assert_allclose(np.exp(log_softmax(LOGITS + 7)), [0.4, 0.3, 0.2, 0.1])
    assert log_softmax(np.array([0.0, -np.inf])).tolist() == [0.0, -np.inf]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({}, [0.4, 0.3, 0.2, 0.1], id="no options keep the distribution"),
        pytest.param({"top_k": 2}, [0.571429, 0.428571, 0, 0], id="top_k keeps the k best"),
        pytest.param({"top_p": 0.69}, [0.571429, 0.428571, 0, 0], id="top_p includes its border"),
        pytest.param({"top_p": 0.71}, [0.444444, 0.333333, 0.222222, 0], id="top_p takes one more"),
        pytest.param({"top_p": 0.01}, [1, 0, 0, 0], id="top_p keeps the best"),
        pytest.param({"min_p": 0.6}, [0.571429, 0.428571, 0, 0], id="min_p is relative"),
        pytest.param(
            {"top_k": 2, "top_p": 0.57}, [1, 0, 0, 0], id="top_p looks at what top_k left"
        ),
        pytest.param(
            {"temperature": 0.5}, [0.533333, 0.3, 0.133333, 0.033333], id="temperature sharpens"
        ),
        pytest.param({"temperature": 0}, [0.4, 0.3, 0.2, 0.1], id="greedy is at temperature 1"),
    ],
)
def test_truncation_by_hand(params: dict[str, float], expected: list[float]) -> None:
    assert shares(**params) == pytest.approx(expected, abs=2e-6)


def test_penalties_by_hand() -> None:
    params = SamplingParams(
        repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 1.0}
    )
    row = edited(np.array([4.0, -4.0, 4.0, 4.0]), [0], [1, 1, 3], params)
    assert row.tolist() == [2.0, -9.0, 4.0, 1.75]


def test_forbidden_tokens_by_hand() -> None:
    logits = np.zeros(4)
    early = edited(logits, [0], [1], SamplingParams(min_tokens=2), stop_ids=[3])
    late = edited(logits, [0], [1, 1], SamplingParams(min_tokens=2), stop_ids=[3])
    assert (early[3], late[3]) == (-np.inf, 0)
    words = [[1, 2], [0]]
    assert edited(logits, [1], [1], SamplingParams(), (), words).tolist() == [
        -np.inf,
        0,
        -np.inf,
        0,
    ]
    # A word may not begin in the prompt.
    assert edited(logits, [1], [], SamplingParams(), (), words).tolist() == [-np.inf, 0, 0, 0]


@pytest.mark.parametrize(
    ("tokens", "params", "expected"),
    [
        pytest.param("ab", {"stop": ["b"]}, ("stop", "b"), id="a stop string is complete"),
        pytest.param("ba", {"stop": ["b"]}, ("stop", "b"), id="and was before"),
        pytest.param("ab", {"stop": ["b", "ab"]}, ("stop", "ab"), id="the first to begin counts"),
        pytest.param("ba", {"stop": ["b"], "min_tokens": 1}, None, id="complete too early"),
        pytest.param("ab", {"stop": ["ab"], "min_tokens": 1}, ("stop", "ab"), id="only begun"),
        pytest.param("ab", {"min_tokens": 2, "stop": ["b"]}, None, id="not yet looked for"),
        pytest.param("az", {}, ("stop", None), id="the end token"),
        pytest.param("az", {"ignore_eos": True}, None, id="an ignored end token"),
        pytest.param("ab", {"stop_token_ids": [1]}, ("stop", 1), id="a stop id"),
        pytest.param("abc", {}, ("length", None), id="the limit"),
    ],
)
def test_endings_by_hand(
    tokens: str, params: dict[str, object], expected: tuple[str, object] | None
) -> None:
    ids = [ord(letter) - ord("a") for letter in tokens]
    found = end_by_definition(
        ids,
        SamplingParams(**params),  # type: ignore[arg-type]
        eos_ids=[25],
        limit=3,
        decode=lambda some: "".join(chr(ord("a") + token) for token in some),
    )
    assert found == expected


def test_a_bisection_may_end_at_each_candidate_that_is_as_good_as_the_border() -> None:
    shares = np.array([0.5, 0.15, 0.1000001, 0.1, 0.0999999, 0.05])
    params = SamplingParams(temperature=1.0, top_p=0.75)
    rows = bisected(np.log(shares), params)
    kept = sorted(int(np.isfinite(row).sum()) for row in rows)
    assert kept == [3, 4, 5]
    exact = processed(np.log(shares), params)
    assert int(np.isfinite(exact).sum()) == 3
    apart = bisected(np.log(np.array([0.5, 0.3, 0.2])), params)
    assert [int(np.isfinite(row).sum()) for row in apart] == [2]
