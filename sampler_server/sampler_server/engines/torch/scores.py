"""Logprobs of prompts, collected chunk by chunk while the prompt is read."""

import numpy as np
import torch
from torch import Tensor

from ..base import PromptScores

__all__ = ["PromptScorer"]


class PromptScorer:
    """Raw logprobs at temperature 1 of one prompt [P], with the k best of each position."""

    __slots__ = ("_k", "_logprobs", "_prompt", "_top_ids", "_top_logprobs", "done")

    def __init__(self, prompt: np.ndarray[tuple[int], np.dtype[np.int32]], k: int) -> None:
        size = len(prompt)
        self._prompt = torch.from_numpy(prompt.astype(np.int64))
        self._k = k
        self._logprobs = np.full(size, np.nan, dtype="<f4")
        self._top_ids = np.full((size, k), -1, dtype="<i4")
        self._top_logprobs = np.full((size, k), np.nan, dtype="<f4")
        self.done = 0

    def wants(self, start: int, end: int) -> tuple[int, int]:
        """Of positions ``start`` to ``end``, those whose logits score a token not yet scored."""
        return max(start, self.done), min(end, len(self._prompt) - 1)

    @property
    def is_complete(self) -> bool:
        return self.done >= len(self._prompt) - 1

    def take(self, start: int, logits: Tensor) -> None:
        """Logits [c, V] of positions ``start`` on: each scores the token after it."""
        count = len(logits)
        values = logits.float()
        total = torch.logsumexp(values, 1)
        nexts = self._prompt[start + 1 : start + 1 + count].to(values.device)
        place = slice(start + 1, start + 1 + count)
        found = values.gather(1, nexts[:, None])[:, 0] - total
        self._logprobs[place] = found.cpu().numpy()
        width = min(self._k, values.shape[1])
        if width:
            best = values.topk(width, dim=1)
            self._top_ids[place, :width] = best.indices.cpu().numpy()
            self._top_logprobs[place, :width] = (best.values - total[:, None]).cpu().numpy()
        self.done = start + count

    def result(self) -> PromptScores:
        """The columns of the whole prompt."""
        return PromptScores(
            logprobs=self._logprobs.tobytes(),
            top_ids=self._top_ids.tobytes(),
            top_logprobs=self._top_logprobs.tobytes(),
            k=self._k,
        )
