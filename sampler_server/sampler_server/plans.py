"""Checked sampling parameters for one engine: what a request may ask of this replica, decided once
per params.

Requests of a training job share a handful of parameter sets, so the checks are cached by the bytes
that arrive. Pure but for the tokenizer that is handed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import (
    InvalidRequest,
    LogprobsModeUnavailable,
    PayloadTooLarge,
    ProtocolError,
    SamplerError,
    Unsupported,
)
from sampler_api.params import SamplingParams

from .engines.base import EngineInfo, EngineRequest
from .tokenizer import ServedTokenizer

__all__ = ["Plan", "Planner", "check_output", "check_prompt", "check_scores"]

_CACHED = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters that this replica serves. ``k`` = logprobs per token, 0 for none."""

    params: SamplingParams
    k: int
    wants_scores: bool
    stops: tuple[str, ...]
    bad_words: tuple[tuple[int, ...], ...]
    context_limit: int

    def max_total(self, prompt_length: int) -> int:
        """Output tokens at which a sequence ends, those of earlier attempts included."""
        room = self.context_limit - prompt_length
        wanted = self.params.max_tokens
        return room if wanted is None else min(room, wanted)

    def request(
        self,
        key: int,
        prompt: NDArray[np.int32],
        output: NDArray[np.int32],
        total: int,
        seed: int | None,
        adapter: str | None,
        group: int,
        wants_scores: bool,
        is_interactive: bool = False,
    ) -> EngineRequest:
        """One sequence as the engine gets it; ``total`` as of ``max_total``."""
        return EngineRequest(
            key=key,
            prompt_ids=prompt,
            output_ids=output,
            params=self.params,
            max_total=total,
            seed=seed,
            adapter=adapter,
            group=group,
            bad_words=self.bad_words,
            want_prompt_logprobs=wants_scores,
            is_interactive=is_interactive,
        )


class Planner:
    """Makes plans for one engine."""

    def __init__(self, info: EngineInfo, tokenizer: ServedTokenizer | None) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._cache: dict[bytes, Plan | SamplerError] = {}

    def of_bytes(self, raw: msgspec.Raw | bytes) -> Plan | SamplerError:
        """The plan of encoded params (a msgpack map), or the error of every request with them."""
        key = bytes(raw)
        known = self._cache.get(key)
        if known is not None:
            return known
        plan: Plan | SamplerError
        try:
            values = msgspec.msgpack.decode(key)
            if not isinstance(values, dict):
                raise InvalidRequest(
                    "sampling_params: must be a map of names to values", "sampling_params"
                )
            plan = self.of(SamplingParams.from_dict(values))
        except SamplerError as error:
            plan = error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            plan = ProtocolError(f"sampling_params: {error}", "sampling_params")
        except (TypeError, ValueError, OverflowError) as error:
            # Shapes that SamplingParams was not written for, as a number where a list belongs.
            plan = InvalidRequest(f"sampling_params: {error}", "sampling_params")
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[key] = plan
        return plan

    def of(self, params: SamplingParams) -> Plan:
        """The plan of checked params. Raises InvalidRequest or a subclass of it."""
        info = self._info
        for name in ("logprobs", "prompt_logprobs"):
            number = getattr(params, name)
            if number is not None and number > info.max_logprobs:
                raise InvalidRequest(
                    f"{name}: this engine gives at most {info.max_logprobs}, not {number}", name
                )
        mode = params.logprobs_mode
        if mode is not None and mode not in info.logprobs_modes:
            raise LogprobsModeUnavailable(
                f"logprobs_mode: this engine gives {' or '.join(info.logprobs_modes)}, not {mode}",
                "logprobs_mode",
            )
        self._check_ids("stop_token_ids", params.stop_token_ids or ())
        self._check_ids("logit_bias", list(params.logit_bias or ()))
        stops = tuple(params.stop_texts)
        if stops and self._tokenizer is None:
            raise Unsupported("stop: this replica has no tokenizer; use stop_token_ids", "stop")
        k = 0 if params.logprobs is None else max(1, params.logprobs)
        return Plan(
            params=replace(
                params, logprobs=k or None, logprobs_mode=mode or info.logprobs_modes[0]
            ),
            k=k,
            wants_scores=params.prompt_logprobs is not None,
            stops=stops,
            bad_words=self._bad_words(params.bad_words or ()),
            context_limit=info.context_limit,
        )

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        limit = self._info.vocab_size
        for token in ids:
            if token >= limit:
                raise InvalidRequest(
                    f"{name}: {token} is outside the vocabulary of {limit} tokens", name
                )

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        if not words:
            return ()
        if self._tokenizer is None:
            raise Unsupported("bad_words: this replica has no tokenizer", "bad_words")
        return token_forms(words, self._tokenizer.encode)


def token_forms(
    words: Sequence[str], encode: Callable[[str], Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Token sequences of each word as it stands inside a text: after a space and without one.

    A tokenizer that gives both forms the same first token (it marks the start of a text as a space
    would be) has one form only.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip()):
            tokens = tuple(encode(text))
            if tokens:
                found[tokens] = None
    return tuple(found)


def check_prompt(prompt: NDArray[np.int32], info: EngineInfo) -> None:
    """Raises InvalidRequest for a prompt that is empty, too long, or outside the vocabulary."""
    if not len(prompt):
        raise InvalidRequest("input_ids: the prompt is empty", "input_ids")
    if len(prompt) >= info.context_limit:
        raise InvalidRequest(
            f"input_ids: a prompt of {len(prompt)} tokens leaves no room in the context of "
            f"{info.context_limit} tokens; shorten it",
            "input_ids",
        )
    _check_range("input_ids", prompt, info)


def check_output(output: NDArray[np.int32], prompt_length: int, info: EngineInfo) -> None:
    """Raises InvalidRequest for delivered tokens outside the vocabulary or beyond the context."""
    if prompt_length + len(output) > info.context_limit:
        raise InvalidRequest(
            f"output_ids: {prompt_length} prompt and {len(output)} output tokens exceed "
            f"the context of {info.context_limit} tokens",
            "output_ids",
        )
    _check_range("output_ids", output, info)


def check_scores(plan: Plan, prompt_length: int, max_frame_bytes: int) -> None:
    """Raises PayloadTooLarge for prompt logprobs that do not fit into one frame."""
    k = plan.params.prompt_logprobs or 0
    size = prompt_length * (4 + 8 * k)
    # An eighth of the frame is for what is said beside them.
    limit = max_frame_bytes - (max_frame_bytes >> 3)
    if size > limit:
        raise PayloadTooLarge(
            f"prompt_logprobs: {k} candidates for each of {prompt_length} prompt tokens are {size} "
            f"bytes, over the limit of {limit} for a frame; ask for fewer candidates or score the "
            "prompt in parts",
            "prompt_logprobs",
        )


def _check_range(name: str, ids: NDArray[np.int32], info: EngineInfo) -> None:
    if not len(ids):
        return
    wrong = ids[(ids < 0) | (ids >= info.vocab_size)]
    if len(wrong):
        raise InvalidRequest(
            f"{name}: token id {int(wrong[0])} is outside the vocabulary of {info.vocab_size}",
            name,
        )
