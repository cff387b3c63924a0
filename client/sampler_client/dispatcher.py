"""The client's state machine: what waits, what runs where, and what happens when a stream breaks.

No I/O, no clock: connections report frames and losses, ``tick`` counts the seconds in which the
loop was alive, and what is to be sent stands in each replica's next frame (``wake`` asks for it to
be sent). So a pause of this process — a held GIL, SIGSTOP — counts as one tick and moves nothing.

A stream is *continued*, never restarted: what was delivered stays, and the next attempt goes on
behind it.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from sampler_api.codec import decode_server, prompt_columns, scatter
from sampler_api.errors import (
    AdapterError,
    Busy,
    Draining,
    EngineFailed,
    NoReplica,
    PoisonRequest,
    ProtocolError,
    RevisionGone,
    SamplerClosed,
    SamplerError,
    UnknownRequest,
    error_from_wire,
)
from sampler_api.frames import (
    ABORT,
    ERROR,
    FLAG_OF_REASON,
    HANDED_OVER,
    LENGTH,
    RUNNING,
    STOP,
    CancelId,
    Detail,
    ServerFrame,
)
from sampler_api.results import Segment
from sampler_api.revisions import Revision
from sampler_core.groups import ChildWork, Group, PromptScores
from sampler_core.stops import end_of

from .balancer import pick
from .replica import Replica
from .settings import ClientSettings

__all__ = ["Dispatcher"]

log = logging.getLogger("sampler_client")

Item = tuple[Group, Sequence[ChildWork]]

_POISON_FAILURES = 3
_EXPECTED_TOKENS = 256.0


class Dispatcher:
    """Everything that is in flight or waits, of one client process. Owned by one thread."""

    def __init__(self, settings: ClientSettings, wake: Callable[[Replica], None]) -> None:
        self.settings = settings
        self.replicas: dict[str, Replica] = {}
        self.ticks = 0
        self._wake = wake
        self._backlog: deque[Item] = deque()
        self._waiting = 0
        self._next_seq = 0
        self._expected = _EXPECTED_TOKENS
        self._stale: dict[str, list[CancelId]] = {}
        self._unserved_since: dict[str, int] = {}

    # -- work comes in -----------------------------------------------------------------------------

    def submit(self, groups: Iterable[Group]) -> None:
        """Queue new groups, first come first served."""
        for group in groups:
            group.seq = self._next_seq
            self._next_seq += 1
            self._backlog.append((group, group.children))
            self._waiting += len(group.children)
        self.pump()

    def cancel(self, groups: Iterable[Group]) -> None:
        """End groups; what has arrived stays in their columns."""
        ended = {id(child): child for g in groups for child in g.children if child.flag == RUNNING}
        if not ended:
            return
        for replica in self.replicas.values():
            for handle in [h for h, child in replica.children.items() if id(child) in ended]:
                self._cut(replica, handle)
        for child in ended.values():
            child.group.end_child(child, ABORT)
        kept = [
            (group, left)
            for group, children in self._backlog
            if (left := [child for child in children if child.flag == RUNNING])
        ]
        self._backlog = deque(kept)
        self._waiting = sum(len(children) for _, children in kept)
        self.pump()

    def _cut(self, replica: Replica, handle: int) -> None:
        """Stop listening to a stream; its handle is free once the server has confirmed."""
        child = replica.drop(handle)
        if child is not None:
            self._close_segment(child, replica, "cancelled")
            replica.cancel(handle)
            self._wake(replica)

    # -- dispatch ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Give waiting groups to replicas as long as credit lasts."""
        backlog = self._backlog
        if backlog:
            ready = [r for r in self.replicas.values() if r.is_usable]
            total = sum(r.load_tokens for r in ready)
            parked: list[Item] = []
            while backlog:
                group, children = backlog[0]
                usable = ready
                if any(r.hello.card.base != group.ref.base for r in ready) or any(
                    child.refused_by for child in children
                ):
                    usable = self._able(ready, group, children)
                if not usable:
                    parked.append(backlog.popleft())
                    continue
                number = len(children)
                cost = self._cost(group)
                chosen = pick(group.key, usable, number, cost * number, total)
                if chosen is None:
                    break
                backlog.popleft()
                self._waiting -= number
                replica = usable[chosen]
                ticks = self.ticks
                for child in children:
                    child.seen = ticks
                replica.submit(group, children, cost)
                total += cost * number
            for item in reversed(parked):
                backlog.appendleft(item)
        for replica in self.replicas.values():
            if replica.is_dirty:
                self._wake(replica)

    def _cost(self, group: Group) -> int:
        wanted = group.params.max_tokens
        expected = self._expected if wanted is None else min(wanted, self._expected)
        return len(group.prompt_ids) + int(expected)

    def _able(
        self, ready: list[Replica], group: Group, children: Sequence[ChildWork]
    ) -> list[Replica]:
        """Replicas that serve the group's base and have not refused it."""
        of_base = [r for r in ready if r.hello.card.base == group.ref.base]
        refused = frozenset[str]().union(*(child.refused_by for child in children))
        able = [r for r in of_base if r.incarnation not in refused]
        if able or not of_base:
            return able
        error = next((c.last_error for c in children if c.last_error is not None), None)
        if isinstance(error, AdapterError):
            for child in children:
                group.end_child(child, ERROR, error=error)
            return []
        # All have failed it once; that is no reason to stop trying.
        for child in children:
            child.refused_by = frozenset()
        return of_base

    def demand(self) -> tuple[int, int]:
        """Sequences and tokens that wait, as one replica's share."""
        if not self._waiting:
            return 0, 0
        number = max(1, sum(r.is_usable for r in self.replicas.values()))
        sequences = -(-self._waiting // number)
        first = self._backlog[0][0] if self._backlog else None
        return sequences, sequences * (self._cost(first) if first else 1)

    # -- what connections report -------------------------------------------------------------------

    def connected(self, replica: Replica, lost: Sequence[ChildWork]) -> None:
        """A session is open. ``lost`` were in flight on an earlier session of the same
        incarnation."""
        self.replicas[replica.url] = replica
        replica.is_connected = True
        stale = self._stale.pop(replica.incarnation, None)
        if stale:
            replica.forget(stale)
        for child in lost:
            if child.flag == RUNNING:
                child.seen = self.ticks
                replica.join(child)
        self.pump()

    def disconnected(self, replica: Replica) -> list[ChildWork]:
        """The session broke; returns what was in flight, which the caller rejoins or moves."""
        replica.is_connected = False
        return [child for child in replica.drop_session() if child.flag == RUNNING]

    def move(self, replica: Replica, children: Sequence[ChildWork], is_dead: bool) -> None:
        """Continue streams elsewhere; ``is_dead``: their process has ended, not only the
        connection."""
        if self.replicas.get(replica.url) is replica and not replica.is_connected:
            del self.replicas[replica.url]
        if not is_dead:
            stale = self._stale.setdefault(replica.incarnation, [])
            stale += [CancelId(c.group.seq, c.k, c.attempt) for c in children]
        for child in children:
            if is_dead:
                made_progress = len(child.columns) > child.started
                child.failures = 0 if made_progress else child.failures + 1
            self._close_segment(child, replica, "lost")
        self._requeue(children)
        self.pump()

    def forget(self, url: str) -> None:
        """An endpoint has left the fleet."""
        self.replicas.pop(url, None)
        self.pump()

    def frame(self, replica: Replica, data: bytes) -> None:
        """A frame has arrived. Raises ProtocolError; the session cannot go on then."""
        frame, columns = decode_server(data)
        if not isinstance(frame, ServerFrame):
            raise ProtocolError("frame: a second welcome")
        replica.seen = self.ticks
        children = replica.children
        if frame.blocks or frame.prompts:
            touched, ended, position = scatter(frame.blocks, columns, children)
            ticks = self.ticks
            for child in touched:
                child.seen = ticks
            for scores in prompt_columns(frame.prompts, columns[position:]):
                owner = children.get(scores.handle)
                if owner is not None:
                    owner.group.prompt_scores = PromptScores(
                        scores.k, scores.logprobs, scores.top_ids, scores.top_logprobs
                    )
            if ended:
                details = {d.handle: d for d in frame.details} if frame.details else {}
                self._take_ended(replica, ended, details)
        for beat in frame.beats:
            alive = children.get(beat.handle)
            if alive is not None:
                alive.seen = self.ticks
        if frame.grant is not None:
            replica.take_grant(frame.grant)
        if frame.load is not None:
            replica.take_load(frame.load)
        if frame.draining:
            replica.is_draining = True
        self.pump()

    # -- streams end or break ----------------------------------------------------------------------

    def _take_ended(
        self, replica: Replica, ended: list[tuple[int, int]], details: dict[int, Detail]
    ) -> None:
        broken: list[ChildWork] = []
        revisions: dict[int, Revision] = {}
        name = replica.name
        for handle, flag in ended:
            child = replica.release(handle)
            if child is None:
                continue
            detail = details.get(handle)
            if flag in (STOP, LENGTH):
                replica.ack(handle)
                group = child.group
                ref = group.ref
                revision = revisions.get(id(ref))
                if revision is None:
                    revision = revisions[id(ref)] = Revision(ref.base, ref.adapter)
                end = len(child.columns)
                segment = Segment(name, revision, child.started, end, "finished")
                child.segments = (*child.segments, segment)
                self._expected += (end - self._expected) * 0.01
                group.end_child(child, flag, matched=detail.matched if detail else None)
            elif self._take_broken(replica, child, flag, detail):
                broken.append(child)
        if broken:
            self._requeue(broken)

    def _take_broken(
        self, replica: Replica, child: ChildWork, flag: int, detail: Detail | None
    ) -> bool:
        """Whether the stream goes on elsewhere; otherwise it has ended with its error."""
        if flag == HANDED_OVER:
            self._close_segment(child, replica, "drained")
            return True
        if flag == ABORT:
            # Nobody here cancelled it: an orphan lease or an operator did.
            self._close_segment(child, replica, "cancelled")
            return True
        code = detail.code if detail and detail.code else EngineFailed.code
        error = error_from_wire(code, detail.message if detail else "", detail and detail.field)
        self._close_segment(child, replica, code)
        if not error.retryable:
            child.group.end_child(child, ERROR, error=error)
            return False
        if not isinstance(error, UnknownRequest | Busy | Draining):
            child.refused_by |= {replica.incarnation}
            child.last_error = error
        if isinstance(error, EngineFailed):
            child.failures += 1
            if child.failures >= _POISON_FAILURES:
                poison = PoisonRequest(
                    f"engines failed on this input {child.failures} times, last: {error}"
                )
                child.group.end_child(child, ERROR, error=poison)
                return False
        return True

    def _close_segment(self, child: ChildWork, replica: Replica, ended: str) -> None:
        end = len(child.columns)
        ref = child.group.ref
        if end > child.started:
            revision = Revision(ref.base, ref.adapter)
            segment = Segment(replica.name, revision, child.started, end, ended)
            child.segments = (*child.segments, segment)
            child.started = end

    def _requeue(self, children: Sequence[ChildWork]) -> None:
        """Put broken streams before everything that has not begun, siblings together."""
        by_group: dict[int, tuple[Group, list[ChildWork]]] = {}
        for child in children:
            group = child.group
            if child.flag != RUNNING or self._is_complete(child):
                continue
            child.attempt += 1
            by_group.setdefault(group.seq, (group, []))[1].append(child)
        for seq in sorted(by_group, reverse=True):
            group, siblings = by_group[seq]
            self._backlog.appendleft((group, siblings))
            self._waiting += len(siblings)

    def _is_complete(self, child: ChildWork) -> bool:
        """What has arrived may be the whole sequence, its last word lost."""
        if not len(child.columns):
            return False
        card = next(iter(self.replicas.values())).hello.card if self.replicas else None
        if card is None:
            return False
        group = child.group
        room = card.context_limit - len(group.prompt_ids)
        end = end_of(child.columns.token_ids, group.params, card.eos_ids, room)
        if end is None:
            return False
        length, reason, matched = end
        child.columns.truncate(length)
        group.end_child(child, FLAG_OF_REASON[reason], matched=matched)
        return True

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> list[Replica]:
        """One alive second has passed; returns replicas whose session is silent for too long."""
        self.ticks += 1
        settings = self.settings
        silence = max(1, round(settings.silence_timeout / settings.tick))
        silent = [
            r for r in self.replicas.values() if r.is_connected and self.ticks - r.seen > silence
        ]
        patience = max(1, round(settings.progress_timeout / settings.tick))
        if self.ticks % max(1, patience // 12) == 0:
            self._move_stuck(patience)
        self._fail_gone(max(1, round(settings.gone_timeout / settings.tick)))
        return silent

    def _move_stuck(self, patience: int) -> None:
        for replica in self.replicas.values():
            stuck = [h for h, c in replica.children.items() if self.ticks - c.seen > patience]
            moved: list[ChildWork] = []
            for handle in stuck:
                child = replica.drop(handle)
                if child is not None:
                    replica.cancel(handle)
                    child.refused_by |= {replica.incarnation}
                    self._close_segment(child, replica, "progress_timeout")
                    moved.append(child)
            if moved:
                log.warning("%s: %d streams without progress, moving them", replica.url, len(moved))
                self._requeue(moved)
        self.pump()

    def _fail_gone(self, patience: int) -> None:
        served = {r.hello.card.base for r in self.replicas.values()}
        if not served or not self._backlog:
            self._unserved_since.clear()
            return
        wanted = {group.ref.base for group, _ in self._backlog}
        for base in list(self._unserved_since):
            if base in served or base not in wanted:
                del self._unserved_since[base]
        for base in wanted - served:
            if self.ticks - self._unserved_since.setdefault(base, self.ticks) > patience:
                gone = RevisionGone(f"no replica has served {base} for {patience} seconds")
                self._fail(lambda group, base=base: group.ref.base == base, gone)  # type: ignore[misc]

    def _fail(self, concerns: Callable[[Group], bool], error: SamplerError) -> None:
        items = [item for item in self._backlog if concerns(item[0])]
        self._backlog = deque(item for item in self._backlog if not concerns(item[0]))
        for group, children in items:
            self._waiting -= len(children)
            for child in children:
                group.end_child(child, ERROR, error=type(error)(error.message, error.field))

    def fail_waiting(self, error: NoReplica | SamplerError) -> None:
        """No endpoint has ever answered: everything that waits fails."""
        self._fail(lambda _: True, error)

    def close(self) -> None:
        """End everything."""
        error = SamplerClosed("the sampler was closed")
        running = [c for r in self.replicas.values() for c in r.children.values()]
        for child in running:
            child.group.end_child(child, ERROR, error=error)
        self._fail(lambda _: True, error)

    @property
    def is_idle(self) -> bool:
        """Nothing waits."""
        return not self._backlog
