"""Time limits by folder, and the logs of servers in reports.

Imports nothing heavy: every tier, also without torch, loads this file.
"""

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.servers import server_logs

try:
    import hypothesis
except ImportError:
    # A machine with an accelerator may have pytest and not the development tools.
    pass
else:
    # A busy machine is no finding: how long an example takes is not what these tests are about.
    hypothesis.settings.register_profile(
        "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("busy")

UNIT = Path(__file__).parent / "unit"
UNIT_TIMEOUT_SECONDS = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests get 5 s; the others keep the 60 s of pyproject.toml; a test's own marker wins."""
    for item in items:
        if item.path.is_relative_to(UNIT) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers that it may have used wrote."""
    report = yield
    if report.failed:
        report.sections += [(f"log of server {name}", text) for name, text in server_logs()]
    return report
