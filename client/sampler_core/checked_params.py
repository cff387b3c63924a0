"""Parameters of calls, checked once for all calls that pass equal ones.

A job makes very many calls with few parameter sets; checking one costs more than sending its
request. Equal calls share one object, which nobody may change and which goes over the wire once a
frame.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from sampler_api.params import SamplingParams

__all__ = ["CheckedParams"]

_KEPT = 64
_values_of = attrgetter(*SamplingParams.__dataclass_fields__)


class CheckedParams:
    """Remembers the latest parameter sets. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], SamplingParams] = {}

    def of(self, value: SamplingParams | Mapping[str, Any] | None) -> SamplingParams:
        """:meth:`SamplingParams.of`; the result may be shared."""
        key = _key(value)
        try:
            found = self._known.get(key) if key is not None else None
        except TypeError:
            # A list or a dict in it: its owner may change it at any time.
            return SamplingParams.of(value)
        if found is None:
            found = SamplingParams.of(value)
            if key is not None:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[key] = found
        return found


def _key(value: Any) -> tuple[Any, ...] | None:
    # Types belong to it: True equals 1, and is no number of anything.
    if type(value) is SamplingParams:
        values = _values_of(value)
        return (*values, *map(type, values))
    if type(value) is dict:
        return (*value.items(), *map(type, value.values()))
    return None
