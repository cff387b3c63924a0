"""Time limits by folder. Imports nothing heavy: every tier, also without torch, loads this file."""

from pathlib import Path

import pytest

UNIT = Path(__file__).parent / "unit"
UNIT_TIMEOUT_SECONDS = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests get 5 s; the others keep the 60 s of pyproject.toml; a test's own marker wins."""
    for item in items:
        if item.path.is_relative_to(UNIT) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_SECONDS))
