"""The contract of samplers and fleets: types, the Sampler interface, errors, frames and their
codec.

Imports numpy and msgspec only.
"""

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
