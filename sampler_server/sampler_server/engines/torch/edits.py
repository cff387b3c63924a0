"""Changes to single logits: bias, forbidden tokens, penalties.

Only the logits of tokens that a rule names are read and written, so that a rule on one sequence of
a batch costs a few hundred numbers, not a vocabulary. The order is vLLM's: ``logit_bias`` and
forbidden tokens first, then the penalties, then (in ``sampling``) temperature and truncation.
"""

from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from .sequence import Sequence

__all__ = ["apply_edits"]


def apply_edits(logits: Tensor, sequences: Rows[Sequence]) -> None:
    """Change logits f32 [n, V] in place, by the rules of each row's sequence."""
    edited = [(row, s) for row, s in enumerate(sequences) if s.edits_logits]
    if not edited:
        return
    _bias(logits, edited)
    _forbid(logits, edited)
    _penalise(logits, edited)


def _bias(logits: Tensor, edited: list[tuple[int, Sequence]]) -> None:
    rows: list[int] = []
    tokens: list[int] = []
    amounts: list[float] = []
    for row, sequence in edited:
        bias = sequence.params.logit_bias or {}
        rows.extend([row] * len(bias))
        tokens.extend(bias.keys())
        amounts.extend(bias.values())
    if rows:
        at = (_on(rows, logits), _on(tokens, logits))
        logits[at] += torch.tensor(amounts, dtype=logits.dtype).to(logits.device)


def _forbid(logits: Tensor, edited: list[tuple[int, Sequence]]) -> None:
    places = [(row, token) for row, sequence in edited for token in sequence.forbidden()]
    if places:
        rows, tokens = zip(*places, strict=True)
        logits[_on(rows, logits), _on(tokens, logits)] = -torch.inf


def _penalise(logits: Tensor, edited: list[tuple[int, Sequence]]) -> None:
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    tokens: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    values: list[np.ndarray[tuple[int, int], np.dtype[np.float32]]] = []
    for row, sequence in edited:
        if sequence.counts is None:
            continue
        # Repetition covers prompt and output; presence and frequency see the output only.
        named = list(sequence.seen | sequence.counts.keys())
        params = sequence.params
        table = np.empty((len(named), 2), dtype=np.float32)
        table[:, 0] = params.repetition_penalty
        counts = np.array([sequence.counts.get(token, 0) for token in named], dtype=np.float32)
        table[:, 1] = params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        rows.append(np.full(len(named), row, dtype=np.int64))
        tokens.append(np.array(named, dtype=np.int64))
        values.append(table)
    if not rows:
        return
    at = (
        torch.from_numpy(np.concatenate(rows)).to(logits.device),
        torch.from_numpy(np.concatenate(tokens)).to(logits.device),
    )
    repetition, amount = torch.from_numpy(np.concatenate(values)).to(logits.device).unbind(1)
    found = logits[at]
    found = torch.where(found > 0, found / repetition, found * repetition)
    logits[at] = found - amount


def _on(numbers: Rows[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long).to(like.device)
