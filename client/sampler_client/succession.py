"""Bases that no replica serves any more, and the ones under which their sequences go on. Pure."""

from collections.abc import Collection, Iterable

import msgspec

from sampler_api.frames import RevisionRef
from sampler_core.groups import Group

from .replica import Replica

__all__ = ["follow", "heirs_of"]


def heirs_of(replicas: Collection[Replica]) -> dict[str, str]:
    """By base: that of the replica which was met last among those that say they succeed it."""
    known = [replica for replica in replicas if replica.hello.succeeds]
    if not known:
        return {}
    heirs = {
        base: replica.hello.card.base
        for replica in sorted(known, key=lambda replica: replica.met)
        for base in replica.hello.succeeds
    }
    served = {replica.hello.card.base for replica in replicas}
    return {base: heir for base, heir in heirs.items() if base not in served}


def follow(groups: Iterable[Group], heirs: dict[str, str]) -> None:
    """Have groups of which nothing is in flight name the heir of their base."""
    followed: dict[RevisionRef, RevisionRef] = {}
    for group in groups:
        ref = group.ref
        heir = heirs.get(ref.base)
        if heir is not None:
            if ref not in followed:
                # One object for all: a frame says equal ones once.
                followed[ref] = msgspec.structs.replace(ref, base=heir)
            group.ref = followed[ref]
