"""Sampling parameters: names and meanings of Twinkle's, checked when they are made.

Pure: no clock, no randomness, no I/O.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any, Literal

from .errors import InvalidRequest, Unsupported

__all__ = ["LogprobsMode", "SamplingParams"]

LogprobsMode = Literal["processed", "raw"]

MAX_SAMPLES = 4096
MAX_LOGPROBS = 1024
_ALIASES = {"max_new_tokens": "max_tokens", "n": "num_samples"}
_UNSUPPORTED = frozenset(
    (
        "guided_choice",
        "guided_decoding",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "response_format",
        "return_routed_experts",
        "routed_experts",
        "structured_outputs",
    )
)
"""Names that other samplers know; said to be missing here instead of unknown."""


def _fail(field: str, text: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {text}", field)


def _integer(field: str, value: Any, low: int, high: int | None = None) -> int:
    # numpy integers have __index__; bool has it too, and is a mistake here.
    if isinstance(value, bool):
        raise _fail(field, f"must be an integer, not {value!r}")
    try:
        number = index(value)
    except TypeError:
        raise _fail(field, f"must be an integer, not {value!r}") from None
    if number < low or (high is not None and number > high):
        bound = f">= {low}" if high is None else f"between {low} and {high}"
        raise _fail(field, f"must be {bound}, not {number}")
    return number


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        raise _fail(field, f"must be a number, not {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _fail(field, f"must be a number, not {value!r}") from None
    if not math.isfinite(number):
        raise _fail(field, f"must be finite, not {number}")
    return number


def _items(field: str, value: Any) -> list[Any]:
    """A list of a list, tuple, set or array; text and bytes are iterable, and a mistake here."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple | set | frozenset):
        raise _fail(field, f"must be a list, not {value!r}")
    return list(value)


@dataclass(slots=True)
class SamplingParams:
    """How to sample; every field is checked here, an :class:`InvalidRequest` names the wrong one.

    ``max_tokens=None`` generates to the context limit; 0 scores the prompt only. ``top_k`` 0 or -1
    is off. ``stop`` takes one text, several, or token ids. ``logprobs=k`` gives k candidates per
    position, the sampled token first; 0 means 1. ``logprobs_mode=None`` takes what the engine
    offers, processed first. ``bad_words`` are texts (tokenised with and without a leading space)
    that never appear.
    """

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | Sequence[int] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    num_samples: int = 1
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] | None = None
    logit_bias: Mapping[int, float] | None = None
    bad_words: Sequence[str] | None = None
    logprobs_mode: LogprobsMode | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            self.max_tokens = _integer("max_tokens", self.max_tokens, 0)
        if self.seed is not None:
            self.seed = _integer("seed", self.seed, -(2**63), 2**64 - 1)
        self.temperature = _number("temperature", self.temperature)
        if self.temperature < 0:
            raise _fail("temperature", f"must be >= 0, not {self.temperature}")
        self.top_k = _integer("top_k", self.top_k, -1)
        self.top_p = _number("top_p", self.top_p)
        if not 0 < self.top_p <= 1:
            raise _fail("top_p", f"must be in (0, 1], not {self.top_p}")
        self.min_p = _number("min_p", self.min_p)
        if not 0 <= self.min_p <= 1:
            raise _fail("min_p", f"must be in [0, 1], not {self.min_p}")
        self.repetition_penalty = _number("repetition_penalty", self.repetition_penalty)
        if self.repetition_penalty <= 0:
            raise _fail("repetition_penalty", f"must be > 0, not {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            value = _number(name, getattr(self, name))
            if not -2 <= value <= 2:
                raise _fail(name, f"must be between -2 and 2, not {value}")
            setattr(self, name, value)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                setattr(self, name, _integer(name, getattr(self, name), 0, MAX_LOGPROBS))
        self.num_samples = _integer("num_samples", self.num_samples, 1, MAX_SAMPLES)
        self.min_tokens = _integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _fail(
                "min_tokens", f"must be at most max_tokens={self.max_tokens}, not {self.min_tokens}"
            )
        if not isinstance(self.ignore_eos, bool):
            raise _fail("ignore_eos", f"must be true or false, not {self.ignore_eos!r}")
        if self.logprobs_mode not in (None, "processed", "raw"):
            raise _fail(
                "logprobs_mode", f"must be 'processed' or 'raw', not {self.logprobs_mode!r}"
            )
        self._check_stops()
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, Mapping):
                raise _fail(
                    "logit_bias", f"must be a dict of token ids to numbers, not {self.logit_bias!r}"
                )
            self.logit_bias = {
                # JSON objects have text keys.
                _integer(
                    "logit_bias", int(k) if isinstance(k, str) and k.isdecimal() else k, 0
                ): _number("logit_bias", v)
                for k, v in self.logit_bias.items()
            } or None
        if self.bad_words is not None:
            words = _items("bad_words", self.bad_words)
            if not all(isinstance(word, str) and word for word in words):
                raise _fail("bad_words", "must be a list of non-empty texts")
            self.bad_words = words or None

    def _check_stops(self) -> None:
        stop: Any = self.stop
        if isinstance(stop, str):
            stop = [stop]
        elif isinstance(stop, float | bool | Mapping):
            raise _fail("stop", f"must be a text, or a list of texts and token ids, not {stop!r}")
        ids = [] if self.stop_token_ids is None else _items("stop_token_ids", self.stop_token_ids)
        if stop is not None:
            texts: list[str] = []
            for item in _items("stop", stop):
                if isinstance(item, str):
                    if not item:
                        raise _fail(
                            "stop",
                            "holds an empty text, which stops every sequence at once; remove it",
                        )
                    texts.append(item)
                elif hasattr(item, "__index__"):
                    ids.append(_integer("stop", item, 0))
                else:
                    raise _fail("stop", f"must hold texts and token ids, not {item!r}")
            self.stop = texts or None
        self.stop_token_ids = [_integer("stop_token_ids", i, 0) for i in ids] or None

    @property
    def stop_texts(self) -> list[str]:
        """The stop strings; ids given as ``stop`` have moved to ``stop_token_ids``."""
        return list(self.stop or ())  # type: ignore[arg-type]

    @property
    def is_greedy(self) -> bool:
        """Temperature 0: the most probable token, no draw."""
        return self.temperature == 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SamplingParams":
        """Params from a mapping, which is left as it is; unknown names are refused with the nearest
        one."""
        known = {f.name for f in fields(cls)}
        taken: dict[str, Any] = {}
        for name, value in values.items():
            target = _ALIASES.get(name, name)
            if name in _UNSUPPORTED:
                raise Unsupported(f"{name}: not supported in this version; remove it", name)
            if target not in known:
                near = difflib.get_close_matches(str(name), [*known, *_ALIASES], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InvalidRequest(f"{name}: unknown sampling parameter{hint}", str(name))
            if target in taken:
                raise InvalidRequest(f"{name}: {target} is given twice", str(name))
            taken[target] = value
        return cls(**taken)

    @classmethod
    def of(cls, value: "SamplingParams | Mapping[str, Any] | None") -> "SamplingParams":
        """A checked copy of what a caller passes; ``None`` is the defaults.

        A dataclass of another library with the same field names is taken too.
        """
        if value is None:
            return cls()
        if isinstance(value, SamplingParams):
            return replace(value)
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
            return cls.from_dict({n: getattr(value, n) for n in value.__dataclass_fields__})
        raise InvalidRequest(
            f"sampling_params: must be SamplingParams or a dict, not {type(value).__name__}",
            "sampling_params",
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
