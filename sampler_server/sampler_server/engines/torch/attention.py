"""Attention over rows of different lengths, in the place where transformers calls attention.

Registered with transformers' ``AttentionInterface`` under one name. The model runs without a
cache of its own: this function stores the new keys and values in the rows of the step's layout and
attends to them there. Sequences that advance by one token share one call a slab, with the query
heads of a key head as the query length, so that keys are neither repeated nor gathered; every chunk
of a prompt is a call of its own.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .layout import ChunkRun, Layout, SlabRun

__all__ = ["NAME", "UnsupportedAttention", "attend", "register"]

NAME: Final = "sampler_rows"
_ALIGNMENT: Final = 16

# Arguments that models pass to attention and that change nothing here; others are refused, because
# dropping one would give wrong numbers.
_HARMLESS: Final = frozenset(
    {"cache_position", "is_causal", "output_attentions", "output_hidden_states", "position_ids"}
    | {"position_embeddings", "use_cache", "past_key_values", "logits_to_keep", "return_dict"}
)


class UnsupportedAttention(Exception):
    """The model asks attention for something that rows do not have."""


def register() -> None:
    """Make the function known to transformers; idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    sampler_layout: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer: query [1, H, T, D], key and value [1, h, T, D] → [1, T, H, D]."""
    if sampler_layout is None:
        raise UnsupportedAttention("the model does not hand its extra arguments on to attention")
    for name, given in others.items():
        if given is not None and name not in _HARMLESS:
            raise UnsupportedAttention(f"the model gives {name}= to attention")
    if attention_mask is not None:
        raise UnsupportedAttention("the model makes an attention mask of its own")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = scaling if scaling is not None else 1.0 / math.sqrt(query.shape[-1])
    heads, dim = query.shape[1], query.shape[3]
    kv_heads = key.shape[1]
    queries = query[0].transpose(0, 1)
    keys = key[0].transpose(0, 1).reshape(-1, dim)
    values = value[0].transpose(0, 1).reshape(-1, dim)
    out = torch.empty((sampler_layout.size, heads, dim), dtype=query.dtype, device=query.device)
    for run in sampler_layout.runs:
        part = slice(run.first * kv_heads, run.last * kv_heads)
        run.slab.flat_keys[layer].index_copy_(0, run.writes, keys[part])
        run.slab.flat_values[layer].index_copy_(0, run.writes, values[part])
        if run.singles:
            end = run.first + run.singles
            out[run.first : end] = _singles(
                run, layer, queries[run.first : end], kv_heads, scale, sliding_window
            )
        for chunk in run.chunks:
            out[chunk.first : chunk.last] = _chunk(
                run,
                chunk,
                layer,
                queries[chunk.first : chunk.last],
                kv_heads,
                scale,
                sliding_window,
            )
    return out[None], None


def _singles(
    run: SlabRun, layer: int, queries: Tensor, kv_heads: int, scale: float, window: int | None
) -> Tensor:
    """One token of each of n sequences: queries [n, H, D] → [n, H, D]."""
    count, heads, dim = queries.shape
    longest = _reach(run, queries.device)
    mask = _single_mask(run, window, queries)
    grouped = queries.reshape(count, kv_heads, heads // kv_heads, dim)
    if run.rows is not None:
        # Rows in prefill lie between: they get a query of zeros, which costs less than gathering.
        spread = grouped.new_zeros((run.span, *grouped.shape[1:]))
        spread[run.rows] = grouped
        grouped = spread
    found = scaled_dot_product_attention(
        grouped,
        run.slab.keys[layer][: run.span, :, :longest],
        run.slab.values[layer][: run.span, :, :longest],
        attn_mask=mask,
        scale=scale,
    )
    if run.rows is not None:
        found = found[run.rows]
    return found.reshape(count, heads, dim)


def _reach(run: SlabRun, device: torch.device) -> int:
    """Positions that the batched call covers."""
    longest = max(run.lengths)
    if device.type == "cpu":
        return longest
    # Fused kernels of GPUs want masks whose rows are aligned.
    return min(run.slab.capacity, -(-longest // _ALIGNMENT) * _ALIGNMENT)


def _single_mask(run: SlabRun, window: int | None, like: Tensor) -> Tensor | None:
    """[span, 1, 1, longest], 0 or -inf; ``None`` where every row is full."""
    known = (-1, window)
    if known not in run.masks:
        longest = _reach(run, like.device)
        if run.rows is None and window is None and min(run.lengths) == longest:
            run.masks[known] = None
        else:
            # Rows without a query see their first position: a row of -inf alone would give NaN.
            ends = torch.ones(run.span, dtype=torch.long)
            lengths = torch.tensor(run.lengths)
            if run.rows is None:
                ends[:] = lengths
            else:
                ends[run.rows.cpu()] = lengths
            ends = ends.to(like.device)[:, None]
            at = torch.arange(longest, device=like.device)[None]
            is_hidden = at >= ends
            if window is not None:
                is_hidden |= at < ends - window
            mask = torch.zeros(is_hidden.shape, dtype=like.dtype, device=like.device)
            run.masks[known] = mask.masked_fill_(is_hidden, -torch.inf)[:, None, None]
    return run.masks[known]


def _chunk(
    run: SlabRun,
    chunk: ChunkRun,
    layer: int,
    queries: Tensor,
    kv_heads: int,
    scale: float,
    window: int | None,
) -> Tensor:
    """Several tokens of one sequence: queries [c, H, D] → [c, H, D]."""
    count, heads, dim = queries.shape
    group = heads // kv_heads
    end = chunk.end
    mask = _chunk_mask(run, chunk, window, queries)
    # Keys are expanded with stride 0, not copied.
    shape = (kv_heads, group, end, dim)
    found = scaled_dot_product_attention(
        queries.reshape(count, kv_heads, group, dim).permute(1, 2, 0, 3),
        run.slab.keys[layer][chunk.row, :, :end].unsqueeze(1).expand(shape),
        run.slab.values[layer][chunk.row, :, :end].unsqueeze(1).expand(shape),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
    )
    return found.permute(2, 0, 1, 3).reshape(count, heads, dim)


def _chunk_mask(run: SlabRun, chunk: ChunkRun, window: int | None, like: Tensor) -> Tensor | None:
    """[c, end], 0 or -inf; ``None`` where plain causal attention is meant."""
    if chunk.start == 0 and (window is None or chunk.end <= window):
        return None
    known = (chunk.first, window)
    if known not in run.masks:
        query_at = torch.arange(chunk.start, chunk.end, device=like.device)[:, None]
        key_at = torch.arange(chunk.end, device=like.device)[None]
        is_hidden = key_at > query_at
        if window is not None:
            is_hidden |= key_at <= query_at - window
        mask = torch.zeros(is_hidden.shape, dtype=like.dtype, device=like.device)
        run.masks[known] = mask.masked_fill_(is_hidden, -torch.inf)
    return run.masks[known]
