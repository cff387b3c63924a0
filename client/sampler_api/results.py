"""What comes out: sequences, responses, and where each token came from.

A sequence keeps its columns and makes Python lists, text and features when somebody reads them: a
training job that takes the columns pays for nothing else. Everything that is read once stays.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import SamplerError
from .logprobs import LogprobRow, LogprobRows
from .revisions import Revision

__all__ = [
    "Responses",
    "SampleResponse",
    "SampledSequence",
    "Segment",
    "SequenceView",
    "StopReason",
    "Usage",
]

StopReason = Literal["length", "stop", "abort", "error"]


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens ``start`` to ``end`` of a sequence came from one attempt on one replica.

    ``ended`` says why the segment ended: ``finished``, or what made the sequence move (``drained``,
    ``lost``, ``progress_timeout``, ``engine_failed``, ``cancelled``). ``reproducible`` is False
    where a seeded draw could not be continued exactly.
    """

    replica: str
    revision: Revision | None
    start: int
    end: int
    ended: str
    reproducible: bool = True


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Of one response: tokens of the prompt and of all completions, and how many segments these
    have."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    segments: int = 0


class SequenceView(Protocol):
    """Turns tokens into text and features for one input; made by the sampler that was asked."""

    def decode(self, tokens: list[int]) -> str | None:
        """Text with special tokens kept; ``None`` without a template."""
        ...

    def feature(self, tokens: list[int]) -> dict[str, Any]:
        """The input's feature continued by ``tokens``."""
        ...


_UNSET: Any = object()
_EMPTY_IDS = np.empty(0, np.int32)


class SampledSequence:
    """One completion.

    ``tokens`` contain the token that ended it; ``logprobs`` has one row per token when asked for,
    else ``None``. ``token_ids`` (i32 [T]) and ``logprobs.sampled`` (f32 [T]) are the same without
    Python lists: arrays of the caller's own, which may be written to. Where logprobs were asked for
    they are views of one table of rows (token, logprobs), so neighbours lie a row apart, not an
    item. numpy, torch and pickle take that as it is; for C-contiguous ones (a buffer, ``ctypes``,
    a ``view`` of another size) take ``.copy()`` or ``np.ascontiguousarray``. ``error`` is set when
    ``stop_reason`` is ``error``.
    """

    __slots__ = (
        "_decoded",
        "_feature",
        "_tokens",
        "_view",
        "error",
        "logprobs",
        "revision",
        "routed_experts",
        "segments",
        "stop_matched",
        "stop_reason",
        "token_ids",
    )

    def __init__(
        self,
        stop_reason: StopReason,
        tokens: Iterable[int] | NDArray[np.int32] = _EMPTY_IDS,
        logprobs: LogprobRows | list[LogprobRow] | None = None,
        decoded: str | None = _UNSET,
        new_input_feature: dict[str, Any] | None = _UNSET,
        routed_experts: Any = None,
        *,
        revision: Revision | None = None,
        segments: tuple[Segment, ...] = (),
        stop_matched: str | int | None = None,
        error: SamplerError | None = None,
        view: SequenceView | None = None,
    ) -> None:
        self.stop_reason = stop_reason
        if isinstance(tokens, np.ndarray):
            self.token_ids = tokens
            self._tokens: list[int] = _UNSET
        else:
            self._tokens = list(tokens)
            self.token_ids = np.asarray(self._tokens, np.int32)
        self.logprobs = logprobs
        self._decoded = decoded
        self._feature = new_input_feature
        self.routed_experts = routed_experts
        self.revision = revision
        self.segments = segments
        self.stop_matched = stop_matched
        self.error = error
        self._view = view

    @property
    def tokens(self) -> list[int]:
        """Token ids as a list."""
        if self._tokens is _UNSET:
            self._tokens = self.token_ids.tolist()
        return self._tokens

    @property
    def decoded(self) -> str | None:
        """The text, special tokens kept; ``None`` where there is no template or nothing was
        generated to decode."""
        if self._decoded is _UNSET:
            self._decoded = self._view.decode(self.tokens) if self._view else None
        return self._decoded

    @property
    def new_input_feature(self) -> dict[str, Any] | None:
        """The input's feature with the completion appended: ids, shifted labels, messages, every
        unknown key."""
        if self._feature is _UNSET:
            self._feature = self._view.feature(self.tokens) if self._view else None
        return self._feature

    @new_input_feature.setter
    def new_input_feature(self, value: dict[str, Any] | None) -> None:
        self._feature = value

    def __reduce__(self) -> tuple[Any, ...]:
        # A view holds a template and the caller's input: what it would give is made now.
        return _rebuild, (
            self.stop_reason,
            np.array(self.token_ids),
            self.logprobs,
            self.decoded,
            self.new_input_feature,
            self.routed_experts,
            self.revision,
            self.segments,
            self.stop_matched,
            self.error,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampledSequence):
            return NotImplemented
        return (
            self.stop_reason == other.stop_reason
            and self.tokens == other.tokens
            and self.logprobs == other.logprobs
            and self.revision == other.revision
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        size, reason = len(self.token_ids), self.stop_reason
        return f"SampledSequence({size} tokens, stop_reason={reason!r}, revision={self.revision})"


def _rebuild(
    stop_reason: StopReason,
    tokens: NDArray[np.int32],
    logprobs: Any,
    decoded: str | None,
    feature: dict[str, Any] | None,
    routed_experts: Any,
    revision: Revision | None,
    segments: tuple[Segment, ...],
    stop_matched: str | int | None,
    error: SamplerError | None,
) -> SampledSequence:
    return SampledSequence(
        stop_reason,
        tokens,
        logprobs,
        decoded,
        feature,
        routed_experts,
        revision=revision,
        segments=segments,
        stop_matched=stop_matched,
        error=error,
    )


class SampleResponse:
    """All sequences of one input.

    ``prompt_token_ids`` may be given as an array i32 [P], and is a list for whoever reads it.
    ``prompt_logprobs[i]`` is the raw logprob of prompt token i (element 0 is ``None``);
    ``topk_prompt_logprobs[i]`` has exactly k candidates, descending.
    """

    __slots__ = ("_prompt", "prompt_logprobs", "sequences", "topk_prompt_logprobs", "usage")

    def __init__(
        self,
        sequences: list[SampledSequence],
        prompt_token_ids: list[int] | NDArray[np.int32] | None = None,
        prompt_logprobs: list[float | None] | None = None,
        topk_prompt_logprobs: list[LogprobRow | None] | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.sequences = sequences
        self._prompt = prompt_token_ids
        self.prompt_logprobs = prompt_logprobs
        self.topk_prompt_logprobs = topk_prompt_logprobs
        self.usage = usage

    @property
    def prompt_token_ids(self) -> list[int] | None:
        """The ids that the prompt became; ``None`` where it was refused before that."""
        prompt = self._prompt
        if isinstance(prompt, np.ndarray):
            ids: list[int] = prompt.tolist()
            self._prompt = prompt = ids
        return prompt

    @prompt_token_ids.setter
    def prompt_token_ids(self, value: list[int] | None) -> None:
        self._prompt = value

    def _fields(self) -> tuple[Any, ...]:
        scores = self.prompt_logprobs, self.topk_prompt_logprobs
        return self.sequences, self.prompt_token_ids, *scores, self.usage

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleResponse, self._fields()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleResponse):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        size = len(self.prompt_token_ids or ())
        return f"SampleResponse({size} prompt tokens, sequences={self.sequences!r})"


class Responses(list[SampleResponse]):
    """One response per input, in input order; ``sequences`` is the flat view."""

    @property
    def sequences(self) -> list[SampledSequence]:
        """All sequences, input by input."""
        return [sequence for response in self for sequence in response.sequences]

    def iter_sequences(self) -> Iterator[tuple[int, int, SampledSequence]]:
        """``(input index, child index, sequence)`` of every sequence."""
        for index, response in enumerate(self):
            for child, sequence in enumerate(response.sequences):
                yield index, child, sequence
