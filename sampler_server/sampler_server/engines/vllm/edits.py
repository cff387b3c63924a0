"""The logits processor that vLLM's worker loads: rules that its own would apply wrongly.

It runs behind vLLM's bias and minimum length, and before its penalties, which are off for the rows
that come here. The order within a row is that of the torch engine: forbidden tokens, penalties,
temperature.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from .owner import follow_owner

__all__ = ["SequenceEdits"]

_EDITS = "sampler_edits"


class SequenceEdits(LogitsProcessor):  # type: ignore[misc]
    """Bad words, penalties over continued output, and temperatures that vLLM does not take."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, _Row] = {}
        # Nothing else of ours runs in this process.
        follow_owner()

    def is_argmax_invariant(self) -> bool:
        """Greedy sequences have penalties and bad words too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the rows of the batch."""
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            row = _row_of(params, prompt, output)
            if row is None:
                rows.pop(index, None)
            else:
                rows[index] = row
        for here, there, direction in batch_update.moved:
            row, other = rows.pop(here, None), rows.pop(there, None)
            if row is not None:
                rows[there] = row
            if other is not None and direction == MoveDirectionality.SWAP:
                rows[here] = other

    def apply(self, logits: Tensor) -> Tensor:
        """Change logits f32 [n, V] in place."""
        for index, row in self._rows.items():
            row.apply(logits[index])
        return logits


class _Row:
    """One sequence: what is forbidden, what has been seen, how often."""

    def __init__(self, edits: dict[str, Any], prompt: Sequence[int], output: list[int]) -> None:
        done = int(edits["done"])
        start = len(prompt) - done
        self._output = output
        self._delivered = list(prompt[start:])
        self._bad_words: list[list[int]] = edits.get("bad_words", [])
        self._penalties: list[float] | None = edits.get("penalties")
        self._scale: float | None = edits.get("scale")
        self._counts: dict[int, int] = {}
        self._seen = set(prompt[:start]) if self._penalties else set()
        self._counted = 0
        for token in self._delivered:
            self._count(token)

    def _count(self, token: int) -> None:
        self._counts[token] = self._counts.get(token, 0) + 1

    def apply(self, logits: Tensor) -> None:
        """Change logits f32 [V] in place."""
        if self._bad_words:
            self._forbid(logits)
        if self._penalties is not None:
            self._penalise(logits, *self._penalties)
        if self._scale is not None:
            logits.mul_(self._scale)

    def _forbid(self, logits: Tensor) -> None:
        longest = max(len(word) for word in self._bad_words) - 1
        tail = self._output[max(0, len(self._output) - longest) :]
        if len(tail) < longest:
            tail = (self._delivered + tail)[-longest:]
        ends = [
            word[-1]
            for word in self._bad_words
            if len(word) == 1 or tail[1 - len(word) :] == word[:-1]
        ]
        if ends:
            logits[torch.tensor(ends, device=logits.device)] = -torch.inf

    def _penalise(
        self, logits: Tensor, repetition: float, presence: float, frequency: float
    ) -> None:
        for token in self._output[self._counted :]:
            self._count(token)
        self._counted = len(self._output)
        tokens = list(self._seen | self._counts.keys() if repetition != 1 else self._counts)
        if not tokens:
            return
        on = logits.device
        at = torch.tensor(tokens, device=on)
        counts = torch.tensor([float(self._counts.get(t, 0)) for t in tokens], device=on)
        found = logits[at]
        found = torch.where(found > 0, found / repetition, found * repetition)
        logits[at] = found - frequency * counts - presence * (counts > 0)


def _row_of(params: SamplingParams, prompt: list[int] | None, output: list[int]) -> _Row | None:
    edits = (params.extra_args or {}).get(_EDITS)
    return None if edits is None else _Row(edits, prompt or [], output)
