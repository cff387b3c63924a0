"""Which tokens stay candidates: min-p, then top-k, then top-p, each on what the one before left.

Candidates are kept by a threshold on their logit. Tokens of equal logit at the border all stay, so
that the kept set does not depend on how a device sorts.
"""

import torch
from torch import Tensor

__all__ = ["truncate"]

_FIRST_LOOK = 256


def truncate(logits: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Logits f32 [n, V], -inf for dropped tokens; min_p, top_p f32 [n], top_k i64 [n] (0: off)."""
    vocabulary = logits.shape[1]
    if bool((min_p > 0).any()):
        floor = logits.amax(1) + min_p.log()
        logits = logits.masked_fill(logits < floor[:, None], -torch.inf)
    limits = torch.where(top_k > 0, top_k, vocabulary).clamp_(max=vocabulary)
    looks_at_p = bool((top_p < 1).any())
    if not looks_at_p and bool((limits == vocabulary).all()):
        return logits
    # The best few hundred usually decide; a full sort of the vocabulary is the exception.
    bounded = limits[limits < vocabulary]
    width = min(vocabulary, max(_FIRST_LOOK, int(bounded.max()) if bounded.numel() else 0))
    floor, is_settled = _floors(logits, limits, top_p, width)
    if not bool(is_settled.all()):
        rest = ~is_settled
        floor[rest] = _floors(logits[rest], limits[rest], top_p[rest], vocabulary)[0]
    return logits.masked_fill(logits < floor[:, None], -torch.inf)


def _floors(logits: Tensor, limits: Tensor, top_p: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The least kept logit of each row f32 [n], and whether ``width`` candidates were enough."""
    vocabulary = logits.shape[1]
    best = logits.topk(width, dim=1).values
    unbounded = limits >= vocabulary
    places = (limits.clamp(max=width) - 1)[:, None]
    by_k = best.gather(1, places)[:, 0].masked_fill(unbounded, -torch.inf)
    # Probabilities among what top-k left; ties at its border stay, and weigh.
    kept = logits.masked_fill(logits < by_k[:, None], -torch.inf)
    total = torch.logsumexp(kept, 1, keepdim=True)
    shares = (best.masked_fill(best < by_k[:, None], -torch.inf) - total).exp()
    before = shares.cumsum(1) - shares
    # A token stays while the tokens before it hold less than top_p; the first always stays.
    inside = before < top_p[:, None]
    inside[:, 0] = True
    last = inside.sum(1) - 1
    by_p = best.gather(1, last[:, None])[:, 0]
    wants_p = top_p < 1
    floor = torch.where(wants_p, torch.maximum(by_p, by_k), by_k)
    is_settled = (
        ~wants_p
        | (last < width - 1)
        | (limits <= width)
        | torch.tensor(width == vocabulary, device=logits.device)
    )
    return floor, is_settled
