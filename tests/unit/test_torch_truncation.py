"""Which candidates stay, against a definition that sorts."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tests.reference import processed  # noqa: E402

from sampler_api.params import SamplingParams  # noqa: E402
from sampler_server.engines.torch.truncation import truncate  # noqa: E402


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.01, 1.0, 6.0]),
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.01, 0.3, 1.0]),
            st.sampled_from([-1, 0, 1, 3, 300, 5000]),
            st.sampled_from([1.0, 0.999, 0.9, 0.3, 1e-6]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_the_kept_set_is_the_defined_one(
    seed: int, scale: float, rows: list[tuple[float, int, float]]
) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, (len(rows), 700)).astype(np.float32)
    min_p, top_k, top_p = zip(*rows, strict=True)
    kept = truncate(
        torch.from_numpy(logits),
        torch.tensor(min_p),
        torch.tensor([max(k, 0) for k in top_k]),
        torch.tensor(top_p),
    ).numpy()
    for row, found in enumerate(kept):
        params = SamplingParams(min_p=min_p[row], top_k=top_k[row], top_p=top_p[row])
        defined = processed(logits[row].astype(np.float64), params)
        differ = np.flatnonzero((found > -np.inf) != (defined > -np.inf))
        # A token at the very border may fall on either side by rounding.
        assert len(differ) <= 1
        assert (found[found > -np.inf] == logits[row][found > -np.inf]).all()


def test_equal_logits_at_the_border_all_stay() -> None:
    logits = torch.tensor([[1.0, 3.0, 1.0, 1.0, 0.0]])
    off = torch.tensor([0.0]), torch.tensor([2]), torch.tensor([1.0])
    assert truncate(logits, *off)[0].isfinite().tolist() == [True, True, True, True, False]
