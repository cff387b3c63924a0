"""What waits for a replica, and which replica takes it next. Pure.

Streams that have begun go first, suspects alone, and everything else first come first served, as
long as there is credit.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from sampler_api.errors import PayloadTooLarge
from sampler_api.frames import ERROR, RUNNING
from sampler_core.groups import ChildWork, Group

from .backlog import Backlog, Item
from .balancer import Order, pick
from .meeting import UNBOUNDED, Meeting
from .placement import Takers
from .quarantine import Quarantine, is_suspect
from .replica import Replica

__all__ = ["Give", "Waiting"]

Give = Callable[[Replica, Group, Sequence[ChildWork], int, bool], None]
"""Replica, group, children, KV tokens a child, and whether every token is urgent."""

_FIRST_GUESS_TOKENS: Final = 256.0
_LEARNING_RATE: Final = 0.01


class Waiting:
    """Everything of one client that no replica has yet; ``give`` is called for what one gets."""

    def __init__(self, give: Give) -> None:
        self.meeting = Meeting()
        self._give = give
        self._backlog = Backlog()
        self._quarantine = Quarantine()
        self._takers = Takers()
        self._expected = _FIRST_GUESS_TOKENS

    # -- in and out --------------------------------------------------------------------------------

    def put(self, group: Group) -> None:
        """A new group, behind all others."""
        self._backlog.put(group)

    def put_back(self, children: Iterable[ChildWork]) -> None:
        """Streams that broke: before everything that has not begun, siblings together; suspects
        wait apart."""
        going: list[ChildWork] = []
        for child in children:
            if is_suspect(child):
                self._quarantine.add(child)
            else:
                going.append(child)
        self._backlog.put_first(_in_groups(going))

    def cancelled(self, child: ChildWork) -> None:
        """A child that waits is about to end; the quarantine finds that out by itself."""
        if not is_suspect(child):
            self._backlog.cancelled()

    def compact(self) -> None:
        """Let go of cancelled children, once most of what is held are such."""
        self._backlog.compact()

    def take(self, concerns: Callable[[Group], bool]) -> list[ChildWork]:
        """Remove some of the groups; returns their children that have not ended."""
        taken = self._backlog.remove(concerns)
        return taken + self._quarantine.take(lambda child: concerns(child.group))

    def bases(self) -> set[str]:
        """The base digests that are waited for."""
        return self._backlog.bases() | self._quarantine.bases()

    def demand(self, usable: int) -> tuple[int, int]:
        """Sequences and tokens that wait, as the share of one of ``usable`` replicas."""
        waiting = self._backlog.waiting
        if not waiting:
            return 0, 0
        sequences = -(-waiting // max(1, usable))
        first = self._backlog.head()
        return sequences, sequences * (self._cost(first[0]) if first else 1)

    def learn(self, length: int) -> None:
        """A sequence has ended with so many tokens: what is to be expected of the next."""
        self._expected += (length - self._expected) * _LEARNING_RATE

    def _cost(self, group: Group) -> int:
        wanted = group.params.max_tokens
        expected = self._expected if wanted is None else min(wanted, self._expected)
        return len(group.prompt_ids) + int(expected)

    # -- who gets it -------------------------------------------------------------------------------

    def pump(self, replicas: Mapping[str, Replica], ticks: int) -> None:
        """Give to replicas as long as credit lasts."""
        if self._quarantine:
            for replica, child in self._quarantine.admit(replicas.values()):
                self._give(replica, child.group, [child], self._cost(child.group), True)
        backlog = self._backlog
        if not backlog:
            return
        usable = [r for r in replicas.values() if r.is_usable]
        if usable != self._takers.replicas:
            self._takers = Takers(usable)
            # Among them may be one for what nobody could serve before.
            backlog.unpark()
        meeting = self.meeting
        if usable and not meeting.is_over:
            running = sum(len(r.children) for r in usable)
            share = meeting.share(backlog.waiting + running, len(usable), ticks)
            self._give_out(usable, share)
            if not meeting.is_over:
                return
        self._give_out(usable, UNBOUNDED)

    def _give_out(self, usable: Collection[Replica], share: int) -> None:
        for replica in usable:
            replica.share = share
        backlog, takers = self._backlog, self._takers
        total = sum(r.load_tokens for r in usable)
        while usable and (item := backlog.head()) is not None:
            group, children = item
            # Only what has begun has an output, or was refused somewhere.
            is_again = children[0].attempt > 0 or children[0].started > 0
            if (is_again or len(group.prompt_ids) > takers.largest) and not self._fits_a_frame(
                group, children
            ):
                continue
            able, order = takers.replicas, takers.order
            if is_again or group.ref.base != takers.base:
                able = takers.able(group, children)
                if not able:
                    if children[0].flag == RUNNING:
                        backlog.park()
                    else:
                        backlog.take()
                    continue
                if len(able) != len(usable):
                    order = Order(r.salt for r in able)
            number = len(children)
            cost = self._cost(group)
            chosen = pick(group.key, able, order, number, cost * number, total)
            if chosen is None:
                break
            backlog.take()
            total += cost * number
            self._give(able[chosen], group, children, cost, False)

    def _fits_a_frame(self, group: Group, children: Sequence[ChildWork]) -> bool:
        """Whether the head of the backlog may go in one frame; else it is split, or refused."""
        largest = self._takers.largest
        size = len(group.prompt_ids) + sum(len(child.columns) for child in children)
        if size <= largest:
            return True
        if len(children) > 1:
            self._backlog.split()
            return False
        self._backlog.take()
        error = PayloadTooLarge(
            f"input_ids: {size} tokens of prompt and output, and replicas here take at most "
            f"{largest} in a frame; shorten the input",
            "input_ids",
        )
        group.end_child(children[0], ERROR, error=error)
        return False


def _in_groups(children: Iterable[ChildWork]) -> list[Item]:
    """Siblings together, in the order of submission."""
    by_group: dict[int, tuple[Group, list[ChildWork]]] = {}
    for child in children:
        by_group.setdefault(child.group.seq, (child.group, []))[1].append(child)
    return [by_group[seq] for seq in sorted(by_group)]
