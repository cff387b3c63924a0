"""The contract of samplers and fleets: types, the Sampler interface, errors, frames and their
codec.

Imports numpy and msgspec only; and numpy not before a name that needs it is used, since an operator
or a command that only exchanges documents with a fleet should not pay for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import SamplerError
    from .logprobs import LogprobRows
    from .params import SamplingParams
    from .results import Responses, SampledSequence, SampleResponse, Segment, Usage
    from .revisions import AdapterRevision, Revision
    from .sampler import Sampler
    from .types import Input, InputFeature, Message, Tool, ToolCall, Trajectory

__all__ = [
    "AdapterRevision",
    "Input",
    "InputFeature",
    "LogprobRows",
    "Message",
    "Responses",
    "Revision",
    "SampleResponse",
    "SampledSequence",
    "Sampler",
    "SamplerError",
    "SamplingParams",
    "Segment",
    "Tool",
    "ToolCall",
    "Trajectory",
    "Usage",
]

_HOMES = {
    "errors": ("SamplerError",),
    "logprobs": ("LogprobRows",),
    "params": ("SamplingParams",),
    "results": ("Responses", "SampledSequence", "SampleResponse", "Segment", "Usage"),
    "revisions": ("AdapterRevision", "Revision"),
    "sampler": ("Sampler",),
    "types": ("Input", "InputFeature", "Message", "Tool", "ToolCall", "Trajectory"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
