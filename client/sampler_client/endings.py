"""What becomes of a sequence when its stream ends or breaks. Pure, one sequence at a time."""

import msgspec

from sampler_api.columns import Chunks
from sampler_api.errors import (
    Busy,
    Draining,
    EngineFailed,
    PoisonRequest,
    SamplerError,
    UnknownRequest,
    error_from_wire,
)
from sampler_api.frames import ERROR, RUNNING, Detail, ModelCard
from sampler_api.results import Segment
from sampler_api.revisions import Revision
from sampler_core.delivered import end_of_delivered
from sampler_core.groups import ChildWork, Group

__all__ = [
    "begin_anew",
    "close_segment",
    "count_death",
    "end_if_complete",
    "error_of",
    "is_in_flight",
    "note_error",
]

_POISON_FAILURES = 3
_POISON_DEATHS = 4


def error_of(detail: Detail | None) -> SamplerError:
    """The error that a replica gave as the end of a stream."""
    if detail is None:
        return EngineFailed("the replica gave no reason")
    return error_from_wire(detail.code or EngineFailed.code, detail.message, detail.field)


def close_segment(child: ChildWork, replica: str, ended: str, is_reproducible: bool = True) -> None:
    """The tokens since the attempt began are a segment, if there are any."""
    end = len(child.columns)
    if end > child.started:
        ref = child.group.ref
        revision = Revision(ref.base, ref.adapter)
        segment = Segment(replica, revision, child.started, end, ended, is_reproducible)
        child.segments = (*child.segments, segment)
        child.started = end


def note_error(child: ChildWork, error: SamplerError, incarnation: str) -> bool:
    """Whether the sequence goes on elsewhere after ``error``; otherwise it has ended with one."""
    if not error.retryable:
        child.group.end_child(child, ERROR, error=error)
        return False
    if not isinstance(error, UnknownRequest | Busy | Draining):
        child.refused_by |= {incarnation}
        child.last_error = error
    if isinstance(error, EngineFailed):
        child.failures += 1
        if child.failures >= _POISON_FAILURES:
            poison = f"engines failed on this input {child.failures} times, last: {error}"
            child.group.end_child(child, ERROR, error=PoisonRequest(poison))
            return False
    return True


def count_death(child: ChildWork, is_early: bool) -> bool:
    """Whether the sequence goes on after the death of its replica, ``is_early`` in its attempt."""
    if not is_early or len(child.columns) > child.started:
        child.deaths = 0
        return True
    child.deaths += 1
    if child.deaths < _POISON_DEATHS:
        return True
    poison = f"{child.deaths} replicas in a row died as soon as they got this input"
    child.group.end_child(child, ERROR, error=PoisonRequest(poison))
    return False


def begin_anew(child: ChildWork, base: str) -> None:
    """From the prompt on, or from what the caller gave, under the same adapter on another base; a
    sibling that has ended keeps what it has."""
    group = child.group
    if group.ref.base != base:
        group.ref = msgspec.structs.replace(group.ref, base=base)
    if child.given:
        child.columns.truncate(child.given)
    else:
        child.columns = Chunks(child.columns.k)
    child.segments = tuple(s for s in child.segments if s.end <= child.given)
    child.attempt += 1
    child.started = child.given
    child.failures = child.deaths = 0
    child.refused_by, child.last_error = frozenset(), None


def is_in_flight(group: Group) -> bool:
    """A replica has some of it, which it makes under the weights that the group names."""
    return any(child.flag == RUNNING and child.handle >= 0 for child in group.children)


def end_if_complete(child: ChildWork, card: ModelCard) -> bool:
    """Ends a sequence that arrived whole but for the word that it is; ``card`` is of its base."""
    if not child.columns.parts:
        return False
    group, params = child.group, child.group.params
    room = card.context_limit - len(group.prompt_ids)
    limit = room if params.max_tokens is None else min(params.max_tokens, room)
    ids = child.columns.token_ids
    # Stop strings are for whoever can decode: the replica that is asked to go on.
    flag, matched = end_of_delivered(params, (), ids, limit, card.eos_ids, None)
    if flag == RUNNING:
        return False
    group.end_child(child, flag, matched=matched)
    return True
