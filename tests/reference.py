"""What sampling should give, written down as plainly as possible: whole forward passes, no cache,
no batch, float64 arithmetic on single rows, PEFT for adapters.

Nothing here is taken from the code under test but the names of the parameters.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import Architecture, tiny_model

from sampler_api.params import SamplingParams

__all__ = [
    "DTYPE",
    "TOLERANCE",
    "Expected",
    "Reference",
    "bisected",
    "edited",
    "end_by_definition",
    "log_softmax",
    "processed",
    "reference",
]

Row = NDArray[np.float64]
DTYPE: Final = os.environ.get("SAMPLER_TEST_DTYPE", "float32")
"""Of the models under test. The other, float16, is for adapters on GPUs alone, where vLLM computes
them in 16 bits only."""
TOLERANCE: Final = {"float32": 1e-4, "float16": 3e-2}[DTYPE]
"""Largest difference of a logprob."""


def log_softmax(logits: Row) -> Row:
    """Logprobs f64 [V]; -inf stays."""
    best = logits.max()
    row: Row = logits - (best + np.log(np.exp(logits - best).sum()))
    return row


def edited(
    logits: Row,
    prompt: Sequence[int],
    output: Sequence[int],
    params: SamplingParams,
    stop_ids: Sequence[int] = (),
    bad_words: Sequence[Sequence[int]] = (),
) -> Row:
    """Logits f64 [V] after bias, forbidden tokens and penalties, token by token."""
    row = logits.astype(np.float64)
    for token, bias in (params.logit_bias or {}).items():
        row[token] += bias
    if len(output) < params.min_tokens:
        for token in stop_ids:
            row[token] = -np.inf
    for word in bad_words:
        *head, last = word
        if not head or list(output[-len(head) :]) == head:
            row[last] = -np.inf
    for token in sorted({*prompt, *output}):
        if row[token] > 0:
            row[token] /= params.repetition_penalty
        else:
            row[token] *= params.repetition_penalty
    for token in sorted({*output}):
        count = sum(1 for other in output if other == token)
        row[token] -= params.presence_penalty + params.frequency_penalty * count
    return row


def processed(row: Row, params: SamplingParams) -> Row:
    """Logprobs f64 [V] of the distribution that a token is drawn from, of edited logits."""
    if params.temperature == 0:
        return log_softmax(row)
    row = row / params.temperature
    if params.min_p > 0:
        shares = np.exp(log_softmax(row))
        row = np.where(shares >= params.min_p * shares.max(), row, -np.inf)
    if params.top_k > 0:
        border = np.sort(row)[::-1][min(params.top_k, len(row)) - 1]
        row = np.where(row >= border, row, -np.inf)
    if params.top_p < 1:
        shares = np.exp(log_softmax(row))
        kept = 0.0
        border = -np.inf
        for share in np.sort(shares)[::-1]:
            border = share
            kept += share
            if kept >= params.top_p:
                break
        row = np.where(shares >= border, row, -np.inf)
    return log_softmax(row)


def bisected(row: Row, params: SamplingParams) -> list[Row]:
    """As ``processed``, once for each border of top_p at which a bisection may end.

    vLLM on a GPU, with 8 sequences and more in a step, halves the range of shares 18 times to find
    it: candidates that are nearer to the border than this are in or out.
    """
    whole = processed(row, replace(params, top_p=1.0))
    shares = np.exp(whole)
    border = shares[np.isfinite(processed(row, params))].min()
    near = shares[np.abs(shares - border) <= shares.max() / 2**17]
    return [log_softmax(np.where(shares >= each, whole, -np.inf)) for each in np.unique(near)]


def end_by_definition(
    tokens: Sequence[int],
    params: SamplingParams,
    eos_ids: Sequence[int],
    limit: int,
    decode: Callable[[Sequence[int]], str],
) -> tuple[str, str | int | None] | None:
    """Whether a sequence ends with the last of ``tokens``: its reason and what matched."""
    last = tokens[-1]
    if len(tokens) > params.min_tokens:
        # What was complete after min_tokens tokens, when nobody looked, is no match later.
        looked_from = max(len(_text(decode, tokens[:n])) for n in range(params.min_tokens + 1))
        text = _text(decode, tokens)
        found = [
            (start, order, stop)
            for order, stop in enumerate(params.stop_texts)
            for start in range(len(text))
            if text.startswith(stop, start) and start + len(stop) > looked_from
        ]
        if found:
            return "stop", min(found)[2]
    if last in eos_ids and not params.ignore_eos:
        return "stop", None
    if last in (params.stop_token_ids or ()):
        return "stop", last
    return ("length", None) if len(tokens) >= limit else None


def _text(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> str:
    """Text of tokens without the beginning of a character whose end has not come."""
    return decode(tokens).rstrip("\ufffd") if tokens else ""


@dataclass(frozen=True, slots=True)
class Expected:
    """A sequence as it should be; ``logprobs`` f64 [T] of the sampled tokens."""

    tokens: list[int]
    logprobs: list[float]
    stop_reason: str
    stop_matched: str | int | None


class Reference:
    """One tiny model, alone or with adapters from directories, asked one sequence at a time."""

    def __init__(self, directory: Path, adapters: dict[str, Path]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._directory = directory
        self._adapters = adapters
        self._models: dict[str | None, Any] = {}
        self._load: Callable[[], Any] = lambda: AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        )
        self._seen: dict[tuple[str | None, tuple[int, ...]], NDArray[np.float64]] = {}
        config = self._model(None).config
        self.eos_ids: tuple[int, ...] = (config.eos_token_id,)
        self.context: int = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size

    def _model(self, adapter: str | None) -> Any:
        if adapter not in self._models:
            model = self._load()
            if adapter is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, self._adapters[adapter])
            self._models[adapter] = model.eval()
        return self._models[adapter]

    def logits(self, ids: Sequence[int], adapter: str | None = None) -> NDArray[np.float64]:
        """Logits f64 [T, V] of one forward pass over ``ids``."""
        key = adapter, tuple(ids)
        if key not in self._seen:
            if len(self._seen) > 512:
                self._seen.clear()
            with self._torch.inference_mode():
                out = self._model(adapter)(self._torch.tensor([list(ids)]), use_cache=False).logits[
                    0
                ]
            self._seen[key] = out.double().numpy()
        return self._seen[key]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special tokens kept."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def bad_words(self, params: SamplingParams) -> list[list[int]]:
        """Token forms of the bad words: at the start of a text and after a space."""
        forms: list[list[int]] = []
        for word in params.bad_words or ():
            forms += [self.encode(word), self.encode(" " + word.lstrip())]
        return forms

    def limit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """Most tokens that may be generated."""
        room = self.context - len(prompt)
        return room if params.max_tokens is None else min(room, params.max_tokens)

    def rows(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        params: SamplingParams,
        adapter: str | None = None,
    ) -> list[tuple[Row, Row, Row]]:
        """For each output token: raw logprobs, edited logits and processed logprobs, f64 [V]
        each."""
        logits = self.logits([*prompt, *output], adapter)[len(prompt) - 1 : -1]
        stop_ids = (
            *(() if params.ignore_eos else self.eos_ids),
            *(params.stop_token_ids or ()),
        )
        words = self.bad_words(params)
        found = []
        for position, row in enumerate(logits):
            changed = edited(row, prompt, output[:position], params, stop_ids, words)
            found.append((log_softmax(row), changed, processed(changed, params)))
        return found

    def greedy(
        self, prompt: Sequence[int], params: SamplingParams, adapter: str | None = None
    ) -> Expected:
        """Generate at temperature 0, one whole forward pass a token."""
        output: list[int] = []
        logprobs: list[float] = []
        limit = self.limit(prompt, params)
        while True:
            ids = [*prompt, *output]
            # The last row alone is new; a dummy token makes `rows` score it.
            raw, changed, shaped = self.rows(prompt, [*output, 0], params, adapter)[-1]
            token = int(changed.argmax())
            assert len(ids) < self.context
            output.append(token)
            logprobs.append(float((raw if params.logprobs_mode == "raw" else shaped)[token]))
            end = end_by_definition(output, params, self.eos_ids, limit, self.decode)
            if end is not None:
                return Expected(output, logprobs, *end)

    def prompt_logprobs(
        self, prompt: Sequence[int], adapter: str | None = None
    ) -> NDArray[np.float64]:
        """Raw logprobs f64 [P - 1, V]: row i scores token i + 1."""
        return np.stack([log_softmax(row) for row in self.logits(prompt, adapter)[:-1]])


@cache
def reference(architecture: Architecture = "qwen3") -> Reference:
    """The reference of a tiny model; adapters are named by their kind (``tiny_adapters.KINDS``)."""
    return Reference(tiny_model(architecture), _Kinds(architecture))


class _Kinds(dict[str, Path]):
    """Adapter directories, made when first asked for."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self._architecture = architecture

    def __missing__(self, kind: str) -> Path:
        return tiny_adapter(kind, self._architecture)
