"""The client's state machine: what waits, what runs where, and what happens when a stream breaks.

No I/O, no clock: connections report frames and losses, ``tick`` counts the seconds in which the
loop was alive, and what is to be sent stands in each replica's next frame (``wake`` asks for it to
be sent). So a pause of this process — a held GIL, SIGSTOP — counts as one tick and moves nothing.

A stream is *continued*, never restarted: what was delivered stays, and the next attempt goes on
behind it.
"""

import logging
from collections.abc import Callable, Container, Iterable, Sequence

from sampler_api.codec import decode_server, deltas, prompt_columns
from sampler_api.errors import (
    EngineDead,
    ProtocolError,
    RevisionGone,
    SamplerClosed,
    SamplerError,
)
from sampler_api.frames import (
    ABORT,
    ERROR,
    HANDED_OVER,
    LENGTH,
    RUNNING,
    STOP,
    Detail,
    ServerFrame,
)
from sampler_api.results import Segment
from sampler_api.revisions import Revision
from sampler_core.groups import ChildWork, Group, PromptScores

from .endings import (
    begin_anew,
    close_segment,
    count_death,
    end_if_complete,
    error_of,
    is_in_flight,
    note_error,
)
from .leftovers import Leftovers, attempt_of
from .replica import Replica
from .settings import ClientSettings
from .succession import follow, heirs_of
from .waiting import Waiting

__all__ = ["Dispatcher"]

log = logging.getLogger("sampler_client")

_EARLY_DEATH_SECONDS = 10.0
_SHORTEST_REST_SECONDS = 1.0
_LONGEST_REST_SECONDS = 16.0


class Dispatcher:
    """Everything that is in flight or waits, of one client process. Owned by one thread."""

    def __init__(self, settings: ClientSettings, wake: Callable[[Replica], None]) -> None:
        self.settings = settings
        self.replicas: dict[str, Replica] = {}
        self.ticks = 0
        self._wake = wake
        self._waiting = Waiting(self._give)
        self._next_seq = 0
        self._met = 0
        self._leftovers = Leftovers()
        self._unserved_since: dict[str, int] = {}
        self._is_closed = False

    def _ticks_of(self, seconds: float) -> int:
        return max(1, round(seconds / self.settings.tick))

    # -- work comes in -----------------------------------------------------------------------------

    def submit(self, groups: Iterable[Group]) -> None:
        """Queue new groups, first come first served."""
        groups = list(groups)
        heirs = heirs_of(self.replicas.values())
        if heirs:
            follow(groups, heirs)
        for group in groups:
            group.seq = self._next_seq
            self._next_seq += 1
            self._waiting.put(group)
        if self._is_closed:
            self.close()
        self.pump()

    def cancel(self, groups: Iterable[Group]) -> None:
        """End groups; what has arrived stays in their columns."""
        for group in groups:
            for child in group.children:
                if child.flag == RUNNING:
                    self._cancel(child)
                    group.end_child(child, ABORT)
        self._waiting.compact()
        self.pump()

    def _cancel(self, child: ChildWork) -> None:
        handle = child.handle
        if handle < 0:
            self._waiting.cancelled(child)
            return
        for replica in self.replicas.values():
            if replica.children.get(handle) is child:
                replica.drop(handle)
                close_segment(child, replica.name, "cancelled")
                replica.cancel(handle)
                self._wake(replica)
                return
        # Its session is down: what is known of it goes to the caller, and is ended there later.
        close_segment(child, child.replica, "cancelled")

    # -- dispatch ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Give waiting groups to replicas as long as credit lasts."""
        self._waiting.pump(self.replicas, self.ticks)

    def _give(
        self,
        replica: Replica,
        group: Group,
        children: Sequence[ChildWork],
        cost: int,
        is_urgent: bool,
    ) -> None:
        ticks = self.ticks
        for child in children:
            child.seen = child.since = ticks
        replica.submit(group, children, cost, is_urgent)
        self._wake(replica)

    def demand(self) -> tuple[int, int]:
        """Sequences and tokens that wait, as one replica's share."""
        return self._waiting.demand(sum(r.is_usable for r in self.replicas.values()))

    # -- what connections report -------------------------------------------------------------------

    def expect(self, url: str) -> None:
        """An endpoint of the fleet is called for the first time."""
        self._waiting.meeting.expect(url)

    def unreachable(self, url: str) -> None:
        """It does not answer."""
        if not self._waiting.meeting.is_over:
            self._waiting.meeting.met(url)
            self.pump()

    def connected(self, replica: Replica, lost: Sequence[ChildWork]) -> None:
        """A session is open. ``lost`` were in flight on an earlier session of the same
        incarnation."""
        self._waiting.meeting.met(replica.url)
        self.replicas[replica.url] = replica
        replica.is_connected = True
        self._met += 1
        replica.met = self._met
        replica.forget(self._leftovers.take(replica.url, replica.incarnation))
        for child in lost:
            if child.flag == RUNNING:
                replica.join(child)
            else:
                replica.forget([attempt_of(child)])
        self._follow_successors()
        # One that welcomes us again and again, and makes nothing.
        self._move_stuck([replica])

    def disconnected(self, replica: Replica) -> list[ChildWork]:
        """The session broke; returns what was in flight, which the caller rejoins or moves."""
        replica.is_connected = False
        self._leftovers.add(replica.url, replica.incarnation, replica.unheard)
        return replica.drop_session()

    def move(self, replica: Replica, children: Sequence[ChildWork], is_dead: bool) -> None:
        """Continue streams elsewhere; ``is_dead``: their process has ended, not only the
        connection."""
        if self.replicas.get(replica.url) is replica and not replica.is_connected:
            del self.replicas[replica.url]
        # Should the process live after all, it is told when it is reached again.
        self._leftovers.add(replica.url, replica.incarnation, map(attempt_of, children))
        early = self._ticks_of(_EARLY_DEATH_SECONDS)
        going: list[ChildWork] = []
        for child in children:
            if child.flag == RUNNING and (
                not is_dead or count_death(child, self.ticks - child.since <= early)
            ):
                close_segment(child, replica.name, "lost")
                going.append(child)
        self._requeue(going)
        self.pump()

    def forget(self, url: str) -> None:
        """An endpoint has left the fleet."""
        self._waiting.meeting.met(url)
        self.replicas.pop(url, None)
        self._leftovers.forget(url)
        self.pump()

    def frame(self, replica: Replica, data: bytes) -> None:
        """A frame has arrived. Raises ProtocolError; the session cannot go on then."""
        frame, columns = decode_server(data)
        if not isinstance(frame, ServerFrame):
            raise ProtocolError("frame: a second welcome")
        ticks = self.ticks
        replica.seen = ticks
        children = replica.children
        if frame.blocks or frame.prompts:
            blocks, position = deltas(frame.blocks, columns)
            scored = prompt_columns(frame.prompts, columns[position:])
            for block in blocks:
                replica.lanes.take(block, ticks)
            for scores in scored:
                owner = children.get(scores.handle)
                if owner is not None:
                    owner.group.prompt_scores = PromptScores(
                        scores.k, scores.logprobs, scores.top_ids, scores.top_logprobs
                    )
            ended = [each for block in blocks for each in block.ended()]
            if ended:
                details = {d.handle: d for d in frame.details} if frame.details else {}
                self._take_ended(replica, ended, details)
        for beat in frame.beats:
            replica.lanes.see(beat.handles, ticks)
        if frame.grant is not None:
            replica.take_grant(frame.grant)
        if frame.load is not None:
            replica.take_load(frame.load)
        if frame.draining:
            replica.is_draining = True
        self.pump()
        if replica.is_dirty:
            self._wake(replica)

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
            is_reproducible = detail is None or not detail.not_reproducible
            if flag in (STOP, LENGTH):
                replica.ack(handle)
                group = child.group
                ref = group.ref
                revision = revisions.get(id(ref))
                if revision is None:
                    revision = revisions[id(ref)] = Revision(ref.base, ref.adapter)
                end = len(child.columns)
                segment = Segment(name, revision, child.started, end, "finished", is_reproducible)
                child.segments = (*child.segments, segment)
                self._waiting.learn(end)
                replica.backoff.succeed()
                group.end_child(child, flag, matched=detail.matched if detail else None)
            elif flag in (HANDED_OVER, ABORT):
                # An abort that nobody here asked for: an orphan lease, or an operator.
                ended_by = "drained" if flag == HANDED_OVER else "cancelled"
                close_segment(child, name, ended_by, is_reproducible)
                broken.append(child)
            else:
                error = error_of(detail)
                close_segment(child, name, error.code, is_reproducible)
                if isinstance(error, EngineDead):
                    self._rest(replica, error)
                if note_error(child, error, replica.incarnation):
                    broken.append(child)
        if broken:
            self._requeue(broken)

    def _rest(self, replica: Replica, error: SamplerError) -> None:
        """Leave a replica alone whose engine is dead, until it may have been replaced."""
        shortest = self._ticks_of(_SHORTEST_REST_SECONDS)
        longest = self._ticks_of(_LONGEST_REST_SECONDS)
        if replica.backoff.fail(self.ticks, shortest, longest):
            log.warning("%s: %s; nothing new goes there for a while", replica.url, error)

    def _requeue(self, children: Sequence[ChildWork]) -> None:
        """Put broken streams before everything that has not begun, siblings together."""
        going: list[ChildWork] = []
        cards = {r.hello.card.base: r.hello.card for r in self.replicas.values()}
        for child in children:
            card = cards.get(child.group.ref.base)
            if card is not None and end_if_complete(child, card):
                continue
            child.attempt += 1
            child.handle = -1
            going.append(child)
        self._waiting.put_back(going)

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> list[Replica]:
        """One alive second has passed; returns replicas whose session is silent for too long."""
        self.ticks += 1
        silence = self._ticks_of(self.settings.silence_timeout)
        silent = [
            r for r in self.replicas.values() if r.is_connected and self.ticks - r.seen > silence
        ]
        patience = self._ticks_of(self.settings.progress_timeout)
        if self.ticks % max(1, patience // 12) == 0:
            self._move_stuck(self.replicas.values())
        self._fail_gone(self._ticks_of(self.settings.gone_timeout))
        # Not any(): every rest is to be looked at.
        rested = [r for r in self.replicas.values() if r.backoff.has_rested(self.ticks)]
        if rested or not self._waiting.meeting.is_over:
            self.pump()
        return silent

    def _move_stuck(self, replicas: Iterable[Replica]) -> None:
        patience = self._ticks_of(self.settings.progress_timeout)
        for replica in replicas:
            moved: list[ChildWork] = []
            for handle in replica.lanes.stale(self.ticks - patience):
                child = replica.drop(handle)
                if child is not None:
                    replica.cancel(handle)
                    child.refused_by |= {replica.incarnation}
                    close_segment(child, replica.name, "progress_timeout")
                    moved.append(child)
            if moved:
                log.warning("%s: %d streams without progress, moving them", replica.url, len(moved))
                self._requeue(moved)
                self._wake(replica)
        self.pump()

    def _follow_successors(self) -> None:
        """What waits for a base that nobody serves goes on under the one that succeeds it, from the
        tokens that it has."""
        heirs = heirs_of(self.replicas.values())
        if not heirs:
            return
        children = self._take_waiting(heirs)
        follow({child.group: None for child in children}, heirs)
        for child in children:
            child.refused_by, child.last_error = frozenset(), None
        self._put_back(children)

    def _take_waiting(self, bases: Container[str]) -> list[ChildWork]:
        # What is in flight of a group is credited to the base that the group names.
        return self._waiting.take(lambda group: group.ref.base in bases and not is_in_flight(group))

    def _put_back(self, children: list[ChildWork]) -> None:
        if children:
            self._waiting.put_back(children)
            self.pump()

    def _fail_gone(self, patience: int) -> None:
        self._follow_successors()
        served = {r.hello.card.base for r in self.replicas.values()}
        wanted = self._waiting.bases()
        gone = wanted - served - heirs_of(self.replicas.values()).keys() if served else set[str]()
        self._unserved_since = {b: self._unserved_since.get(b, self.ticks) for b in gone}
        for base, since in self._unserved_since.items():
            if self.ticks - since > patience:
                if self.settings.on_revision_gone == "restart":
                    self._begin_anew(base)
                    continue
                seconds = self.settings.gone_timeout
                error = RevisionGone(f"no replica has served {base} for {seconds:g} seconds")
                self._fail(lambda group, base=base: group.ref.base == base, error)  # type: ignore[misc]

    def _begin_anew(self, gone: str) -> None:
        """What waits for a base that is gone starts again on the one that was met last."""
        served = max(self.replicas.values(), key=lambda replica: replica.met).hello.card.base
        log.warning("no replica serves %s any more: beginning anew on %s", gone, served)
        children = self._take_waiting({gone})
        for child in children:
            begin_anew(child, served)
        self._put_back(children)

    def _fail(self, concerns: Callable[[Group], bool], error: SamplerError) -> None:
        for child in self._waiting.take(concerns):
            child.group.end_child(child, ERROR, error=type(error)(error.message, error.field))

    def fail_waiting(self, error: SamplerError) -> None:
        """No endpoint has ever answered: everything that waits fails."""
        self._fail(lambda _: True, error)

    def close(self) -> None:
        """End everything, and whatever else is submitted."""
        self._is_closed = True
        error = SamplerClosed("the sampler was closed")
        for replica in self.replicas.values():
            for child in replica.drop_all():
                close_segment(child, replica.name, "cancelled")
                child.group.end_child(child, ERROR, error=error)
        self._fail(lambda _: True, error)
