"""The replicas that take new work, and which of them can take a given group. Pure."""

from collections.abc import Sequence

from sampler_api.errors import AdapterError
from sampler_api.frames import ERROR
from sampler_core.groups import ChildWork, Group

from .balancer import Order
from .replica import Replica

__all__ = ["Takers"]


class Takers:
    """Replicas that take new work at a time, and what follows from them alone."""

    __slots__ = ("base", "largest", "order", "replicas")

    def __init__(self, replicas: Sequence[Replica] = ()) -> None:
        self.replicas = replicas
        self.order = Order(r.salt for r in replicas)
        # Half a frame, in tokens of four bytes: the rest is for what is said beside it.
        self.largest = min((r.hello.max_frame_bytes for r in replicas), default=0) >> 3
        """Tokens that fit into one frame to any of them."""
        bases = {r.hello.card.base for r in replicas}
        self.base = bases.pop() if len(bases) == 1 else None
        """The base that all of them serve; None when they differ."""

    def able(self, group: Group, children: Sequence[ChildWork]) -> Sequence[Replica]:
        """Those that serve the group's base and have not refused it; all of them, once all have.

        Where that is because none has the adapter, the children end with that error.
        """
        of_base = [r for r in self.replicas if r.hello.card.base == group.ref.base]
        refused = frozenset[str]().union(*(child.refused_by for child in children))
        able = [r for r in of_base if r.incarnation not in refused]
        if able or not of_base:
            return able
        error = next((c.last_error for c in children if c.last_error is not None), None)
        if isinstance(error, AdapterError):
            for child in children:
                group.end_child(child, ERROR, error=error)
            return []
        # That all have failed it once is no reason to stop trying.
        for child in children:
            child.refused_by = frozenset()
        return of_base
