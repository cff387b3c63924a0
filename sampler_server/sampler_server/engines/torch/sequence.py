"""One sequence in the engine: its tokens, where it stands, and what its next token may be."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..base import EngineRequest, Finish
from .memory import KVRow
from .noise import private_seed
from .scores import PromptScorer

__all__ = ["Sequence"]


class Sequence:
    """State of a request from submission to its finish.

    ``tokens`` holds prompt and output together. ``kv.length`` of them are in the cache; a sequence
    draws its next token once all of them are, so that a decode step, a prompt chunk, a
    continuation and a sequence that lost its row are one case: feed what is missing.
    """

    __slots__ = (
        "_buffer",
        "adapter",
        "counts",
        "drawn",
        "kv",
        "leader",
        "length",
        "limit",
        "masks_stops_until",
        "params",
        "prompt_length",
        "request",
        "scorer",
        "seed",
        "seen",
        "stop_ids",
    )

    def __init__(self, request: EngineRequest, eos_ids: tuple[int, ...], context: int) -> None:
        self.request = request
        self.params = request.params
        self.prompt_length = len(request.prompt_ids)
        self.drawn = len(request.output_ids)
        self.length = self.prompt_length + self.drawn
        self._buffer = np.empty(max(64, self.length + 64), dtype=np.int32)
        self._buffer[: self.prompt_length] = request.prompt_ids
        self._buffer[self.prompt_length : self.length] = request.output_ids
        self.limit = max(0, min(request.max_total, context - self.prompt_length))
        eos = () if request.params.ignore_eos else eos_ids
        self.stop_ids = frozenset([*eos, *(request.params.stop_token_ids or ())])
        seed = request.seed
        self.seed = private_seed() if seed is None else seed & (2**64 - 1)
        self.kv: KVRow | None = None
        self.adapter = 0
        self.leader: Sequence | None = None
        self.scorer: PromptScorer | None = None
        self.counts: dict[int, int] | None = None
        self.seen: set[int] = set()
        params = request.params
        if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
            self._start_counting()

    def _start_counting(self) -> None:
        self.counts = {}
        if self.params.repetition_penalty != 1:
            self.seen.update(self.request.prompt_ids.tolist())
        for token in self.request.output_ids.tolist():
            self.counts[token] = self.counts.get(token, 0) + 1

    @property
    def key(self) -> int:
        return self.request.key

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Prompt and output: i32 [length]."""
        return self._buffer[: self.length]

    @property
    def stored(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return self.kv.length if self.kv is not None else 0

    @property
    def missing(self) -> int:
        """Tokens to feed before the next one can be drawn."""
        return self.length - self.stored

    @property
    def is_decoding(self) -> bool:
        """One token away from the next draw, and past the first."""
        return self.missing == 1 and self.drawn > 0

    @property
    def is_scored_only(self) -> bool:
        return self.limit <= 0

    def append(self, token: int) -> Finish | None:
        """Take a drawn token; says whether the sequence ends with it."""
        if self.length == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self.length] = token
        self.length += 1
        self.drawn += 1
        if self.counts is not None:
            self.counts[token] = self.counts.get(token, 0) + 1
        if token in self.stop_ids:
            return "stop"
        return "length" if self.drawn >= self.limit else None

    def forbidden(self) -> Iterator[int]:
        """Token ids that may not be drawn next: stops before ``min_tokens``, ends of bad words."""
        if self.drawn < self.params.min_tokens:
            yield from self.stop_ids
        if self.request.bad_words:
            output = self.tokens[self.prompt_length :]
            for word in self.request.bad_words:
                head = len(word) - 1
                if head <= self.drawn and (
                    not head or output[self.drawn - head :].tolist() == list(word[:-1])
                ):
                    yield word[-1]

    @property
    def edits_logits(self) -> bool:
        """Whether anything but temperature and truncation touches the logits of the next token."""
        return bool(
            self.counts is not None
            or self.request.bad_words
            or self.params.logit_bias
            or self.drawn < self.params.min_tokens
        )
