"""Time limits by folder, and the logs of servers in reports.

Imports nothing heavy: every tier, also without torch, loads this file.
"""

import gc
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.forked import close_forkers
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

TESTS = Path(__file__).parent
FOLDER_TIMEOUT_SECONDS = {"unit": 20, "api": 60, "e2e": 300, "vllm": 300}
"""vLLM's processes import for half a minute, in the first test that wants them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A limit by folder; others keep the 60 s of pyproject.toml; a test's own marker wins. Files
    that take long come first: one that began last would leave other workers without work."""
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if is_of_vllm(item):
            tier = "vllm"
            # Of libraries that vLLM's own processes and modules use; ours are errors elsewhere.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
        seconds = FOLDER_TIMEOUT_SECONDS.get(tier)
        if seconds is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def is_of_vllm(item: pytest.Item) -> bool:
    """It runs against vLLM, in .venv-vllm."""
    return "vllm" in _kind_of(item) or item.path.parent.name == "vllm"


def _kind_of(item: pytest.Item) -> str:
    """The sampler that it runs against; empty if none."""
    spec = getattr(item, "callspec", None)
    return str(spec.params.get("kind", "")) if spec is not None else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers that it may have used wrote."""
    report = yield
    if report.failed:
        report.sections += [(f"log of server {name}", text) for name, text in server_logs()]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """The last thing."""
    close_forkers()
    if "vllm" in sys.modules:
        # It leaves contexts of sockets unclosed, which is no error of ours, whenever Python comes
        # to look at them: at the latest now, when no fixture holds an engine any more.
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
