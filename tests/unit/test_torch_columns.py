"""torch takes the columns of a sequence as they arrive, whatever their stride."""

from typing import Any

import numpy as np
import pytest

from sampler_api.columns import Chunks, row_type

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "k", [pytest.param(0, id="no logprobs"), pytest.param(1, id="one"), pytest.param(3, id="top 3")]
)
def test_torch_takes_columns_that_arrived_as_they_are(k: int) -> None:
    rows = np.zeros(5, row_type(k))
    rows["token"] = [5, 0, 2**31 - 1, 7, 9]
    if k:
        rows["logprob" if k == 1 else "top_logprobs"] = -0.5
    chunks = Chunks(k)
    chunks.add(rows.tobytes(), k)
    ids, logprobs = chunks.arrays()
    columns: list[Any] = [ids, *([] if logprobs is None else [logprobs.values, logprobs.sampled])]
    assert len(columns) == (3 if k else 1)
    for column in columns:
        # Warnings are errors here: torch has one for arrays that cannot be written to.
        tensor = torch.from_numpy(column)
        assert tensor.tolist() == torch.tensor(column).tolist() == column.tolist()
        assert torch.equal(torch.cat([tensor, tensor])[:5], tensor.contiguous())
        tensor += 1
        assert column.tolist() == tensor.tolist()
