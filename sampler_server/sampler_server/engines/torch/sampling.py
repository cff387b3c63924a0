"""From logits to tokens and logprobs, for all sequences that draw in a step.

Order, as in vLLM: forbidden tokens and ``logit_bias``, penalties, the custom logits processor,
temperature, min-p, top-k, top-p, then the draw. ``processed`` logprobs are those of the
distribution drawn from; ``raw`` are of the untouched logits. At temperature 0 ``processed`` is
taken at temperature 1 over all tokens, penalties applied.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .edits import apply_edits
from .noise import draw_keys, log_exponentials
from .options import LogitsProcessor
from .sequence import Sequence
from .truncation import truncate

__all__ = ["Drawn", "draw"]

_NOTHING = -1


@dataclass(slots=True)
class Drawn:
    """What n sequences drew: tokens i32 [n], logprobs f32 [n] (NaN where not asked for).

    ``top`` maps a row to ids i32 [k] and logprobs f32 [k]: the drawn token, then the best others.
    A row that is not ``valid`` has logits that are not finite: no token.
    """

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    valid: NDArray[np.bool_]
    top: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = field(default_factory=dict)


def draw(
    logits: Tensor, sequences: Rows[Sequence], processor: LogitsProcessor | None = None
) -> Drawn:
    """Draw one token for each row of logits [n, V]; the logits may be overwritten."""
    logits = logits.float()
    raw_rows = [row for row, s in enumerate(sequences) if _mode(s) == "raw"]
    changes = processor is not None or any(s.edits_logits for s in sequences)
    raw = logits[raw_rows] if raw_rows and (changes or len(raw_rows) < len(sequences)) else logits
    apply_edits(logits, sequences) if changes else None
    if processor is not None:
        logits = processor([s.tokens.tolist() for s in sequences], logits).float()
    logits = _shaped(logits, sequences)
    tokens = _choose(logits, sequences)
    best = logits.gather(1, tokens[:, None])[:, 0]
    valid = best.isfinite()
    logprobs = torch.full_like(best, torch.nan)
    top: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
    processed_rows = [row for row, s in enumerate(sequences) if _mode(s) == "processed"]
    for rows, values in ((processed_rows, logits), (raw_rows, raw)):
        if not rows:
            continue
        if values is logits and len(rows) < len(sequences):
            values = logits[rows]
        at = torch.tensor(rows, device=logits.device)
        total = torch.logsumexp(values, 1)
        mine = tokens[at]
        logprobs[at] = values.gather(1, mine[:, None])[:, 0] - total
        _tops(values, total, mine, rows, sequences, top)
    return Drawn(
        tokens.to(torch.int32).cpu().numpy(), logprobs.cpu().numpy(), valid.cpu().numpy(), top
    )


def _mode(sequence: Sequence) -> str | None:
    params = sequence.params
    return None if params.logprobs is None else (params.logprobs_mode or "processed")


def _shaped(logits: Tensor, sequences: Rows[Sequence]) -> Tensor:
    """Logits after temperature and truncation."""
    params = [s.params for s in sequences]
    temperatures = [p.temperature or 1.0 for p in params]
    if any(t != 1 for t in temperatures):
        logits = logits / torch.tensor(temperatures).to(logits.device)[:, None]
    rows = [
        row
        for row, p in enumerate(params)
        if p.temperature and (p.top_k > 0 or p.top_p < 1 or p.min_p > 0)
    ]
    if not rows:
        return logits
    some = [params[row] for row in rows]
    on = logits.device
    kept = truncate(
        logits if len(rows) == len(params) else logits[rows],
        torch.tensor([p.min_p for p in some]).to(on),
        torch.tensor([max(p.top_k, 0) for p in some]).to(on),
        torch.tensor([p.top_p for p in some]).to(on),
    )
    if len(rows) == len(params):
        return kept
    logits = logits.clone()
    logits[rows] = kept
    return logits


def _choose(logits: Tensor, sequences: Rows[Sequence]) -> Tensor:
    """The token of each row: i64 [n]."""
    random_rows = [row for row, s in enumerate(sequences) if s.params.temperature]
    if not random_rows:
        return logits.argmax(1)
    some = [sequences[row] for row in random_rows]
    keys = draw_keys(
        np.array([s.seed for s in some], dtype=np.uint64),
        np.array([s.drawn for s in some], dtype=np.uint64),
    )
    noise = log_exponentials(keys, logits.shape[1], logits.device)
    if len(random_rows) == len(sequences):
        return torch.sub(logits, noise, out=noise).argmax(1)
    tokens = logits.argmax(1)
    tokens[random_rows] = torch.sub(logits[random_rows], noise, out=noise).argmax(1)
    return tokens


def _tops(
    values: Tensor,
    total: Tensor,
    mine: Tensor,
    rows: list[int],
    sequences: Rows[Sequence],
    top: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]],
) -> None:
    """Fill ``top`` for the rows that want more than the drawn token's logprob."""
    widths: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        width = sequences[row].params.logprobs or 1
        if width > 1:
            widths.setdefault(width, []).append(place)
    for width, places in widths.items():
        ids, logprobs = _candidates(values[places], total[places], mine[places], width)
        for index, place in enumerate(places):
            top[rows[place]] = (ids[index], logprobs[index])


def _candidates(
    values: Tensor, total: Tensor, mine: Tensor, width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids i32 [n, k] and logprobs f32 [n, k]: the drawn token, then the best others."""
    count = min(width, values.shape[1])
    best = values.topk(count, dim=1)
    ids = torch.cat([mine[:, None], best.indices], 1)
    scores = torch.cat([values.gather(1, mine[:, None]), best.values], 1) - total[:, None]
    # Stable: the drawn token's second place goes to the end, all others keep their order.
    is_again = ids == mine[:, None]
    is_again[:, 0] = False
    order = is_again.to(torch.int8).argsort(dim=1, stable=True)[:, :count]
    ids, scores = ids.gather(1, order), scores.gather(1, order)
    is_masked = scores == -torch.inf
    ids = ids.masked_fill(is_masked, _NOTHING)
    scores = scores.masked_fill(is_masked, torch.nan)
    filler = (0, width - count)
    ids = torch.nn.functional.pad(ids, filler, value=_NOTHING)
    scores = torch.nn.functional.pad(scores, filler, value=float("nan"))
    return ids.to(torch.int32).cpu().numpy(), scores.cpu().numpy()
