"""Tests of the vLLM engine: `make test-vllm`, in .venv-vllm. Elsewhere there is nothing to collect;
the tier is required where it is run by its name, so that this is no success."""

import gc
import warnings
from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]


def pytest_sessionfinish() -> None:
    """What vLLM leaves unclosed of an engine that died is no error of ours, whenever Python comes
    to look at it: at the latest now, when no fixture holds the engine any more."""
    with warnings.catch_warnings(action="ignore"):
        gc.collect()
