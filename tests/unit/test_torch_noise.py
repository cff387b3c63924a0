"""The draws of the torch engine: a function of seed, position and token, and well distributed."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sampler_server.engines.torch.noise import (  # noqa: E402
    draw_keys,
    log_exponentials,
    private_seed,
)

CPU = torch.device("cpu")


def noise(seeds: list[int], positions: list[int], vocabulary: int = 4096) -> Any:
    keys = draw_keys(np.array(seeds, np.uint64), np.array(positions, np.uint64))
    return log_exponentials(keys, vocabulary, CPU)


def test_a_row_depends_on_its_own_seed_and_position_alone() -> None:
    together = noise([1, 2, 3], [0, 5, 0])
    assert torch.equal(together[1], noise([2], [5])[0])
    assert torch.equal(together[0], noise([9, 1], [3, 0])[1])
    assert torch.equal(noise([7], [7], 512)[0], noise([7], [7], 4096)[0, :512])


def test_the_draws_never_change_between_versions() -> None:
    keys = draw_keys(np.array([0, 1, 2**64 - 1], np.uint64), np.array([0, 1, 2**31], np.uint64))
    assert keys.tolist() == FROZEN_KEYS
    rows = log_exponentials(keys, 3, CPU).tolist()
    assert np.allclose(rows, FROZEN_ROWS, atol=1e-5)


FROZEN_KEYS = [[1293516399, -1492722385], [1030549998, -242389783], [-922996892, 691846258]]
FROZEN_ROWS = [
    [-0.634428, 0.12103, -1.81442],
    [0.303986, 0.28427, -1.411213],
    [-4.604953, 1.136389, 0.030535],
]


@pytest.mark.parametrize(
    ("seeds", "positions"),
    [
        (list(range(64)), [0] * 64),
        ([5] * 64, list(range(64))),
        ([s << 56 for s in range(64)], [1] * 64),
    ],
    ids=["neighbouring seeds", "neighbouring positions", "seeds that differ in high bits"],
)
def test_neighbours_are_independent_exponentials(seeds: list[int], positions: list[int]) -> None:
    values = noise(seeds, positions).double().exp().numpy()
    size = values.size
    # Mean and variance of an exponential variable are 1; its fourth central moment is 9.
    assert abs(values.mean() - 1) < 4 / np.sqrt(size)
    assert abs(values.var() - 1) < 4 * np.sqrt(8 / size)
    shares = np.exp(-values)
    counts = np.histogram(shares, bins=64, range=(0, 1))[0]
    chi_square = ((counts - size / 64) ** 2 / (size / 64)).sum()
    assert chi_square < 63 + 5 * np.sqrt(2 * 63)
    related = np.corrcoef(values)
    np.fill_diagonal(related, 0)
    assert np.abs(related).max() < 5.5 / np.sqrt(values.shape[1])
    by_token = np.corrcoef(values[:, :512].T)
    np.fill_diagonal(by_token, 0)
    assert abs(by_token.mean()) < 1e-3


def test_the_extremes_are_finite() -> None:
    values = noise(list(range(256)), [0] * 256, 1 << 14)
    assert bool(values.isfinite().all())
    assert float(values.exp().max()) < 17.4
    assert float(values.exp().min()) < 1e-6


def test_unseeded_sequences_get_seeds_of_their_own() -> None:
    seeds = {private_seed() for _ in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**64 for seed in seeds)
