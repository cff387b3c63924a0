"""One client's session: its frames become streams, its streams' news become frames. No socket here.

Work is per frame where it can be: prompts are checked all at once (``submits``), parameters and
revisions once a table entry, the engine is asked once a frame.
"""

import asyncio
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sampler_api.codec import client_columns
from sampler_api.errors import (
    Busy,
    Draining,
    ProtocolError,
    SamplerError,
    UnknownRequest,
)
from sampler_api.frames import (
    ABORT,
    HANDED_OVER,
    RUNNING,
    CancelId,
    Child,
    ClientFrame,
    ClientHello,
    Grant,
    Join,
    Submit,
)

from .admission import Claim
from .batches import Batch
from .credits import Credits
from .hub import Hub
from .outbox import Outbox
from .plans import Plan
from .settings import FlushSettings
from .streams import CHILD_BITS, Stream, stream_id
from .submits import Prompts, output_problem

__all__ = ["Session"]

_EMPTY = np.empty(0, np.int32)
_MAX_SEQ = 1 << 46
_OVERDRAFT = 4
"""Sequences in flight over the replica's whole credit at which a session is told to wait."""


class Session:
    """The state of one connection; all methods run on the hub's loop."""

    def __init__(
        self,
        hub: Hub,
        bank: Credits,
        hello: ClientHello,
        settings: FlushSettings,
        max_frame_bytes: int,
    ) -> None:
        self.hub = hub
        self.client = hello.client
        self.name = hello.name
        self.weight = min(1000.0, max(0.001, hello.weight))
        self.handles: dict[int, Stream] = {}
        self.running = 0
        self.tokens = 0
        self.demand = (0, 0)
        self.grant = Grant(0, 1, 1)
        self.outbox = Outbox(hub, settings, self.handles, hub.clock())
        self.is_leaving = False
        self.wake = asyncio.Event()
        """Set when the next frame may be due earlier than it was."""
        self._credits = bank
        self._max_frame_bytes = max_frame_bytes

    # -- what others tell it -----------------------------------------------------------------------

    def moved(self, stream: Stream) -> None:
        """A stream of this session has news (``Listener``)."""
        if stream.flag != RUNNING and stream.cost:
            self._count_out(stream)
        now = self.hub.clock()
        if self.outbox.note(stream, now):
            self.wake.set()
        if stream.flag != RUNNING and not self.running:
            self.outbox.finish(now)
            self.wake.set()

    def claim(self) -> Claim:
        """What it has in flight and wants."""
        return Claim(self.weight, (self.running, self.tokens), self.demand)

    def give(self, grant: Grant) -> None:
        """A new grant (``Claimant``)."""
        is_more = grant.sequences > self.grant.sequences or grant.tokens > self.grant.tokens
        self.grant = grant
        self.outbox.give(grant, is_more, self.hub.clock())
        if is_more:
            self.wake.set()

    def turn_away(self) -> None:
        """What is new goes elsewhere; running streams stay."""
        self.outbox.drain(self.hub.clock())
        self.wake.set()

    def drain(self) -> None:
        """Let every running stream go: the client continues them elsewhere."""
        self.outbox.drain(self.hub.clock())
        self.hub.cancel([s for s in self.handles.values() if s.flag == RUNNING], HANDED_OVER)
        self.wake.set()

    def lost(self) -> None:
        """The connection is gone: without a ``bye`` its streams wait for their client."""
        streams = list(self.handles.values())
        self.handles.clear()
        if self.is_leaving:
            self.hub.cancel(streams)
            for stream in streams:
                self.hub.table.forget(stream)
        else:
            self.hub.table.orphan(streams, self.hub.clock())

    # -- what the client says ----------------------------------------------------------------------

    def receive(self, frame: ClientFrame, columns: memoryview) -> None:
        """Do what a frame says. Raises ProtocolError, on which the connection ends."""
        prompts, outputs, acks = client_columns(frame, columns)
        if acks:
            self._acknowledge(acks)
        for cancel in frame.cancel_ids:
            self._cancel_id(cancel)
        for join in frame.joins:
            self._join(join)
        if frame.submits:
            del prompts
            self._submit(frame, columns, outputs)
        if frame.cancels:
            # Last: a frame may cancel what it submits.
            self._cancel(frame.cancels)
        if frame.demand is not None and frame.demand != self.demand:
            self.demand = max(0, frame.demand[0]), max(0, frame.demand[1])
            self._credits.changed()
        if frame.bye:
            self.is_leaving = True

    def _acknowledge(self, acks: Sequence[int]) -> None:
        forget = self.hub.table.forget
        for handle in acks:
            stream = self.handles.get(handle)
            if stream is not None and stream.is_told:
                del self.handles[handle]
                forget(stream)

    def _cancel(self, handles: Sequence[int]) -> None:
        streams = [s for h in handles if (s := self.handles.get(h)) is not None]
        self.hub.cancel(streams)
        for stream in streams:
            if stream.is_told:
                self._release(stream)
            else:
                # The client takes no more columns and sends no ack for them.
                stream.flag = ABORT

    def _cancel_id(self, cancel: CancelId) -> None:
        family = self.hub.table.family(self.client)
        stream = family.get(stream_id(cancel.seq, cancel.child))
        if stream is None or stream.attempt > cancel.attempt:
            return
        self._unbind(stream)
        self.hub.cancel([stream])
        self.hub.table.forget(stream)

    def _join(self, join: Join) -> None:
        self._claim_handle(join.handle)
        if not 0 <= join.child < 1 << CHILD_BITS or not 0 <= join.seq < _MAX_SEQ:
            raise ProtocolError(f"frame: join of request {join.seq}, sample {join.child}")
        try:
            key = stream_id(join.seq, join.child)
            stream = self.hub.table.find(self.client, key, join.attempt)
            held = join.offset - stream.start
            if not 0 <= held <= len(stream.columns):
                raise UnknownRequest(
                    f"offset: {join.offset} is outside what this replica has made "
                    f"({stream.start} to {stream.start + len(stream.columns)})",
                    "offset",
                )
        except UnknownRequest as error:
            self._refuse(join.handle, error)
            return
        self._bind(stream, join.handle, held)

    def _submit(self, frame: ClientFrame, columns: memoryview, outputs: list[memoryview]) -> None:
        hub = self.hub
        plans = [hub.planner.of_bytes(raw) for raw in frame.params]
        batches: list[Batch | SamplerError] = []
        for ref in frame.revisions:
            try:
                hub.check_ref(ref)
            except SamplerError as error:
                batches.append(error)
            else:
                batches.append(Batch(ref))
        prompts = Prompts(frame.prompts, columns, hub.info, self._max_frame_bytes)
        delivered = iter(outputs)
        try:
            for submit in frame.submits:
                plan, batch = plans[submit.params], batches[submit.revision]
                problem: SamplerError | None = None
                if not isinstance(plan, Plan):
                    problem = plan
                elif not isinstance(batch, Batch):
                    problem = batch
                else:
                    problem = prompts.problem(submit, plan)
                if problem is None:
                    problem = self._no_room()
                if problem is not None:
                    for child in submit.children:
                        if child.output_length:
                            next(delivered)
                        self._claim_handle(child.handle)
                        self._refuse(child.handle, problem)
                    continue
                assert isinstance(plan, Plan)
                assert isinstance(batch, Batch)
                self._submit_one(submit, plan, batch, prompts[submit.prompt], delivered)
        finally:
            for each in batches:
                if isinstance(each, Batch):
                    hub.send(each)

    def _no_room(self) -> SamplerError | None:
        if self.hub.is_draining:
            return Draining("the replica is draining; continue elsewhere")
        changing = self.hub.change.session_problem()
        if changing is not None:
            return changing
        if self.running >= _OVERDRAFT * self._credits.sequences:
            return Busy(f"{self.running} sequences are in flight; wait for credit")
        return None

    def _submit_one(
        self,
        submit: Submit,
        plan: Plan,
        batch: Batch,
        prompt: NDArray[np.int32],
        delivered: Iterator[memoryview],
    ) -> None:
        hub = self.hub
        handles = self.handles
        family = hub.table.family(self.client)
        if not 0 <= submit.seq < _MAX_SEQ:
            raise ProtocolError(f"frame: request number {submit.seq}")
        base = submit.seq << CHILD_BITS
        group = hash(prompt.tobytes())
        for child in submit.children:
            handle, number, start = child.handle, child.child, child.output_length
            self._claim_handle(handle)
            if not 0 <= number < 1 << CHILD_BITS:
                raise ProtocolError(f"frame: sample number {number}")
            output = _EMPTY
            if start:
                output = np.frombuffer(next(delivered), np.int32).copy()
                problem = output_problem(output, len(prompt), hub.info)
                if problem is not None:
                    self._refuse(handle, problem)
                    continue
            existing = family.get(base | number)
            if existing is not None and not self._supersede(existing, child):
                continue
            seed = child.seed
            if seed is not None:
                seed &= 0xFFFFFFFFFFFFFFFF
            stream = hub.add(
                batch,
                plan,
                prompt,
                output,
                seed,
                group,
                plan.wants_scores and number == 0 and not start,
                self,
                handle,
                self.client,
                base | number,
                child.attempt,
                submit.is_interactive,
            )
            handles[handle] = stream
            if stream.flag == RUNNING:
                self.running += 1
                self.tokens += stream.cost
            else:
                stream.cost = 0
                self.moved(stream)

    def _supersede(self, existing: Stream, child: Child) -> bool:
        """Whether a request with a known id is to be started; an equal attempt joins what runs."""
        if child.attempt > existing.attempt:
            self.hub.cancel([existing])
            if existing.listener is not self or existing.is_told:
                self._unbind(existing)
            self.hub.table.forget(existing)
            return True
        if child.attempt < existing.attempt:
            error = UnknownRequest(
                f"attempt {child.attempt} was superseded by attempt {existing.attempt}", "attempt"
            )
            self._refuse(child.handle, error)
        elif existing.start != child.output_length:
            error = UnknownRequest(
                f"attempt {child.attempt} began behind {existing.start} tokens, "
                f"not {child.output_length}: join it, or submit the next attempt",
                "attempt",
            )
            self._refuse(child.handle, error)
        else:
            self._bind(existing, child.handle, 0)
        return False

    # -- handles -----------------------------------------------------------------------------------

    def _claim_handle(self, handle: int) -> None:
        stream = self.handles.get(handle)
        if stream is not None:
            if not stream.is_told:
                raise ProtocolError(f"frame: handle {handle} is still in use")
            # Free for the client since it was told the end; its ack is implied.
            self._release(stream)
        elif not 0 <= handle < 1 << 32:
            raise ProtocolError(f"frame: handle {handle}")

    def _refuse(self, handle: int, error: SamplerError) -> None:
        self.outbox.reply(handle, error, self.hub.clock())
        self.wake.set()

    def _bind(self, stream: Stream, handle: int, held: int) -> None:
        self._unbind(stream)
        stream.bind(self, handle, held)
        self.handles[handle] = stream
        if stream.flag == RUNNING:
            self.running += 1
            self.tokens += stream.cost
        if stream.has_news:
            self.moved(stream)

    @staticmethod
    def _unbind(stream: Stream) -> None:
        """Take a stream from the session that has it, which may be an older one of its client."""
        owner = stream.listener
        if isinstance(owner, Session):
            if owner.handles.get(stream.handle) is stream:
                del owner.handles[stream.handle]
            if stream.flag == RUNNING:
                owner.running -= 1
                owner.tokens -= stream.cost
        stream.listener = None

    def _release(self, stream: Stream) -> None:
        del self.handles[stream.handle]
        self.hub.table.forget(stream)

    def _count_out(self, stream: Stream) -> None:
        self.running -= 1
        self.tokens -= stream.cost
        stream.cost = 0
