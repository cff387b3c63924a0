"""Groups that wait for a replica, in the order in which they go. Pure.

Children that are cancelled while they wait are only counted, and left out when their turn comes, so
that cancelling searches for nobody.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from sampler_api.frames import RUNNING
from sampler_core.groups import ChildWork, Group

__all__ = ["Backlog", "Item"]

Item = tuple[Group, Sequence[ChildWork]]

_COMPACT_FROM = 1024


class Backlog:
    """First come first served, but for streams that have begun (``put_first``) and for groups that
    nobody can serve now (``park``), which hold nobody up."""

    def __init__(self) -> None:
        self.waiting = 0
        """Children that wait."""
        self._items: deque[Item] = deque()
        self._parked: list[Item] = []
        self._cancelled = 0
        """Children that were cancelled and still stand in an item."""

    def __bool__(self) -> bool:
        return bool(self._items or self._parked)

    def put(self, group: Group) -> None:
        """A new group, behind all others."""
        self._items.append((group, group.children))
        self.waiting += len(group.children)

    def put_first(self, items: Iterable[Item]) -> None:
        """Before all others, in this order."""
        for item in reversed(list(items)):
            self._items.appendleft(item)
            self.waiting += len(item[1])

    def head(self) -> Item | None:
        """Whose turn it is, with at least one child."""
        items = self._items
        while items:
            if not self._cancelled:
                return items[0]
            group, children = items[0]
            alive = [child for child in children if child.flag == RUNNING]
            if len(alive) == len(children):
                return items[0]
            self._cancelled -= len(children) - len(alive)
            if alive:
                items[0] = group, alive
            else:
                items.popleft()
        return None

    def take(self) -> None:
        """The head waits no longer."""
        _, children = self._items.popleft()
        self.waiting -= len(children)

    def split(self) -> None:
        """Each child of the head is an item of its own."""
        group, children = self._items.popleft()
        self._items.extendleft((group, [child]) for child in reversed(children))

    def park(self) -> None:
        """Put the head aside until ``unpark``; it still waits."""
        self._parked.append(self._items.popleft())

    def unpark(self) -> None:
        """What was put aside comes first."""
        self._items.extendleft(reversed(self._parked))
        self._parked = []

    def cancelled(self) -> None:
        """A child that waits here has ended."""
        self.waiting -= 1
        self._cancelled += 1

    def compact(self) -> None:
        """Let go of cancelled children, once most of what is held are such."""
        if self._cancelled > _COMPACT_FROM + self.waiting:
            self.unpark()
            alive = ((g, [c for c in children if c.flag == RUNNING]) for g, children in self._items)
            self._items = deque(item for item in alive if item[1])
            self._cancelled = 0

    def remove(self, concerns: Callable[[Group], bool]) -> list[ChildWork]:
        """Take some of the groups out; returns their children that have not ended."""
        self.unpark()
        items, self._items = self._items, deque()
        removed: list[ChildWork] = []
        for group, children in items:
            if concerns(group):
                alive = [child for child in children if child.flag == RUNNING]
                self._cancelled -= len(children) - len(alive)
                self.waiting -= len(alive)
                removed += alive
            else:
                self._items.append((group, children))
        return removed

    def bases(self) -> set[str]:
        """The base digests that groups wait for."""
        return {group.ref.base for group, _ in (*self._parked, *self._items)}
