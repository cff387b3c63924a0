"""Calls of this process while its base changes: groups wait, and go on under what comes.

A call names the base that was served when it began. Whoever replaces the weights of a sampler in
his own process means its calls too: what had not begun begins on the new base, and each sequence
says which weights made which of its tokens.
"""

from collections.abc import Sequence

import msgspec

from sampler_api.errors import SamplerError
from sampler_api.frames import ABORT, RUNNING
from sampler_core.groups import Group

__all__ = ["Suspended"]


class Suspended:
    """Groups that wait for the end of a change, and the bases that are no more. On one loop."""

    def __init__(self) -> None:
        self.is_on = False
        self._groups: dict[Group, None] = {}
        self._gone: set[str] = set()

    def add(self, group: Group) -> None:
        """One that goes on after the change."""
        self._groups[group] = None

    def cancel(self, groups: Sequence[Group]) -> None:
        """End those that wait, where they are."""
        for group in groups:
            if group in self._groups:
                del self._groups[group]
                for child in group.children:
                    if child.flag == RUNNING:
                        group.end_child(child, ABORT)

    def fail(self, error: SamplerError) -> None:
        """End all with an error."""
        for group in self._take():
            group.fail(error)

    def end(self, previous: str, base: str) -> list[Group]:
        """The change is over, from ``previous`` to ``base``: the groups that go on."""
        if previous != base:
            self._gone.add(previous)
            # A base may come back.
            self._gone.discard(base)
        self.is_on = False
        return self._take()

    def rebase(self, group: Group, base: str) -> None:
        """Have it go on under ``base`` when its own was replaced in this process."""
        if group.ref.base in self._gone:
            group.ref = msgspec.structs.replace(group.ref, base=base)

    def _take(self) -> list[Group]:
        groups, self._groups = list(self._groups), {}
        return groups
