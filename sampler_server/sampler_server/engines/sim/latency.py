"""How long a step of ``sim`` takes. Pure: no clock, and jitter that a counter decides."""

from dataclasses import dataclass

from sampler_api.errors import InvalidRequest

__all__ = ["LatencyModel", "StepPlan"]

_SHORTEST_STEP = 0.002
"""Seconds; a faster decode makes several tokens a step, since a thread cannot sleep for less in
earnest.
"""
_LONGEST_PREFILL = 0.1
"""Seconds of prefill in one step: a long prompt is cut, and the step counter keeps moving."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: how long it takes, tokens per decoding sequence, prompt tokens in all."""

    seconds: float
    tokens: int
    prefill_tokens: int


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Rates in tokens per second, 0 = at once.

    A decode step takes ``1 / decode_rate + per_sequence * running`` seconds (``per_sequence`` is
    the batch-size effect), prefill adds its own time; the sum is stretched by ``slow`` and by up to
    ``± jitter`` of itself.
    """

    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    per_sequence: float = 0.0
    jitter: float = 0.0
    slow: float = 1.0

    def __post_init__(self) -> None:
        for name in ("prefill_rate", "decode_rate", "per_sequence"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidRequest(
                    f"{name}: must be a number >= 0, not {getattr(self, name)}", name
                )
        if not 0 <= self.jitter < 1:
            raise InvalidRequest(f"jitter: must be in [0, 1), not {self.jitter}", "jitter")
        if not 0 < self.slow < float("inf"):
            raise InvalidRequest(f"slow: must be > 0, not {self.slow}", "slow")

    @property
    def is_at_once(self) -> bool:
        """Nothing takes time."""
        return not (self.prefill_rate or self.decode_rate or self.per_sequence)

    def prefill_budget(self) -> int | None:
        """Prompt tokens that one step may prefill; ``None`` = all."""
        return max(1, int(self.prefill_rate * _LONGEST_PREFILL)) if self.prefill_rate else None

    def step(self, number: int, decoding: int, prefill_tokens: int, most_tokens: int) -> StepPlan:
        """The plan of step ``number``; no sequence needs more than ``most_tokens`` (>= 1) more."""
        one = 0.0
        tokens = most_tokens
        if decoding:
            one = (1 / self.decode_rate if self.decode_rate else 0.0) + self.per_sequence * decoding
            if one:
                tokens = min(most_tokens, max(1, round(_SHORTEST_STEP / one)))
        seconds = one * tokens if decoding else 0.0
        if self.prefill_rate:
            seconds += prefill_tokens / self.prefill_rate
        return StepPlan(
            seconds * self.slow * (1 + self.jitter * _swing(number)), tokens, prefill_tokens
        )


def _swing(number: int) -> float:
    """A number in [-1, 1) that looks random, from a counter."""
    z = (number + 1) * 0x9E3779B97F4A7C15 % (1 << 64)
    z = (z ^ (z >> 29)) * 0xBF58476D1CE4E5B9 % (1 << 64)
    return (z >> 11) / (1 << 52) - 1
