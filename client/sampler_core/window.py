"""The inputs of a stream that are in flight, whatever waits for them."""

from collections.abc import Callable, Mapping
from typing import Any

from sampler_api.errors import InvalidRequest, SamplerError
from sampler_api.results import Responses, SampleResponse

from .calls import errors_of, failed_response, raise_first, respond
from .groups import Backend, Group
from .inputs import normalise_inputs

__all__ = ["Indexed", "MakeGroup", "Window", "checked_pending", "several"]

Indexed = tuple[int, SampleResponse]
MakeGroup = Callable[[int, dict[str, Any], Any, Callable[[Group], None]], tuple[Group, Any]]


class Window:
    """The groups in flight of one stream, and responses from finished ones."""

    def __init__(self, backend: Backend, make: MakeGroup, options: Any, on_error: str) -> None:
        self.backend = backend
        self.make = make
        self.options = options
        self.on_error = on_error
        self.pending: dict[int, tuple[Group, Any]] = {}
        self.next_index = 0

    def start(self, value: Any, on_done: Callable[[Group], None]) -> Group | Indexed:
        """Submit one input; a refused one is a response at once."""
        index = self.next_index
        self.next_index += 1
        try:
            if isinstance(value, list | tuple):
                raise InvalidRequest(
                    f"inputs[{index}]: must be one input, not a {type(value).__name__} of them; "
                    "num_samples gives several samples of one",
                    "inputs",
                )
            (feature,) = normalise_inputs(value)
            group, view = self.make(index, feature, self.options, on_done)
        except SamplerError as error:
            response = failed_response(error, self.options.num_samples)
            self._raise({index: error}, response)
            return index, response
        self.pending[index] = group, view
        return group

    def response(self, group: Group) -> Indexed:
        """The response of a finished group; raises its error when the stream says so."""
        index, response = self.whatever(group)
        self._raise(errors_of([group]), response)
        return index, response

    def whatever(self, group: Group) -> Indexed:
        """The response of a finished group, which may carry an error."""
        _, view = self.pending.pop(group.index)
        return group.index, respond(group, view, self.options.revision)

    def _raise(self, errors: dict[int, SamplerError], response: SampleResponse) -> None:
        if self.on_error == "raise":
            raise_first(errors, Responses([response]))

    def cancel(self) -> None:
        """End what is in flight."""
        self.backend.cancel([group for group, _ in self.pending.values()])


def checked_pending(number: Any) -> int:
    """How far ahead inputs may be pulled. Raises InvalidRequest."""
    if type(number) is not int or number < 1:
        raise InvalidRequest(
            f"max_pending: must be a positive integer, not {number!r}", "max_pending"
        )
    return number


def several(inputs: Any, kinds: Any) -> Any:
    """Inputs to be pulled; one input is a list of it. Raises InvalidRequest."""
    if isinstance(inputs, Mapping):
        return [inputs]
    if isinstance(inputs, str | bytes) or not isinstance(inputs, kinds):
        hint = "; asample_stream takes async iterators" if hasattr(inputs, "__aiter__") else ""
        raise InvalidRequest(
            f"inputs: must be a dict or an iterable of dicts, not {type(inputs).__name__}{hint}",
            "inputs",
        )
    return inputs
