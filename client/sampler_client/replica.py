"""What the client knows of one replica, and the frame that it will send next. No I/O."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.codec import Buffer, encode_frame
from sampler_api.frames import (
    CancelId,
    Child,
    ClientFrame,
    Grant,
    Join,
    Load,
    ServerHello,
    Submit,
)
from sampler_core.groups import ChildWork, Group

from .backoff import Backoff
from .balancer import salt_of
from .lanes import Lanes
from .leftovers import attempt_of
from .meeting import UNBOUNDED

__all__ = ["Replica"]

_encoder = msgspec.msgpack.Encoder()
_NO_GRANT = Grant(-1, 0, 0)
_MAX_PENDING_BYTES = 4 << 20
_HEADER_BYTES = 32
"""Of a child in a frame, about."""


class Replica:
    """One engine process behind one endpoint, while one incarnation of it lives.

    ``children`` maps handles to the sequences in flight. ``salt`` is of the endpoint, so that a
    restarted process keeps its place in the order of the balancer.
    """

    def __init__(self, url: str, hello: ServerHello) -> None:
        self.url = url
        self.hello = hello
        self.salt = salt_of(url)
        self.grant = hello.grant
        self.load = Load()
        self.is_draining = False
        self.is_connected = False
        self.is_listed = True
        """Its endpoint is in the fleet. Where it is not, what runs there may end there."""
        self.reserved_for: ChildWork | None = None
        """The one sequence that may run here now; see ``quarantine``."""
        self.backoff = Backoff()
        self.seen = 0
        self.met = 0
        """Larger than that of all replicas that were met before."""
        self.children: dict[int, ChildWork] = {}
        self.lanes = Lanes(self.children)
        self.inflight_tokens = 0
        self.load_tokens = 0
        self._free: list[int] = []
        self.share = UNBOUNDED
        """Sequences that it may have while others are met for the first time."""
        self._dropped: dict[int, CancelId] = {}
        """What was ended here and may still run there, until the server's last word."""
        self._freed: list[int] = []
        """Free once the next frame is made, which still cancels what they stood for."""
        self._next_handle = 0
        self._reset()

    @property
    def is_usable(self) -> bool:
        """New work may go there."""
        # Asked of every replica at every frame: cheaper than by way of is_admitting.
        return (
            self.is_connected
            and not self.is_draining
            and self.is_listed
            and self.reserved_for is None
            and not self.backoff.is_resting
        )

    @property
    def is_admitting(self) -> bool:
        """It would take work, though it may be reserved."""
        return (
            self.is_connected
            and not self.is_draining
            and self.is_listed
            and not self.backoff.is_resting
        )

    @property
    def name(self) -> str:
        """The name that segments carry."""
        return self.hello.replica

    @property
    def incarnation(self) -> str:
        """Identity of the process."""
        return self.hello.incarnation

    def _reset(self) -> None:
        self._frame = ClientFrame(
            params=[], revisions=[], prompts=[], submits=[], joins=[], cancels=[], cancel_ids=[]
        )
        self._params: dict[int, int] = {}
        self._kept: list[Any] = []
        self._revisions: dict[int, int] = {}
        self._prompt_columns: list[NDArray[np.int32]] = []
        self._output_columns: list[Buffer] = []
        self._acks: list[int] = []
        self._bytes = 0
        self.is_dirty = False

    # -- credit ------------------------------------------------------------------------------------

    def has_room(self, sequences: int, tokens: int) -> bool:
        """Credit allows that much more; an idle session always takes one input."""
        if not self.children:
            return True
        grant = self.grant
        return (
            len(self.children) + sequences <= grant.sequences
            and len(self.children) + sequences <= self.share
            and self.inflight_tokens + tokens <= grant.tokens
            and self._bytes < min(_MAX_PENDING_BYTES, self.hello.max_frame_bytes // 4)
        )

    def take_grant(self, grant: Grant) -> None:
        """A later grant replaces an earlier one."""
        if grant.epoch >= self.grant.epoch:
            self.grant = grant

    def take_load(self, load: Load) -> None:
        """The replica's own count of tokens, of all its clients."""
        self.load = load
        self.load_tokens = max(load.kv_used, self.inflight_tokens)

    # -- what goes into the next frame -------------------------------------------------------------

    def _handle(self, child: ChildWork, cost: int) -> int:
        if self._free:
            handle = self._free.pop()
        else:
            handle = self._next_handle
            self._next_handle += 1
        self.children[handle] = child
        self.lanes.open(handle, child.seen)
        child.handle = handle
        child.replica = self.name
        child.cost = cost
        self.inflight_tokens += cost
        self.load_tokens += cost
        return handle

    def submit(
        self, group: Group, children: Sequence[ChildWork], cost: int, is_urgent: bool = False
    ) -> None:
        """Send children of one input; ``cost`` is KV tokens a child. Urgent ones are answered
        token by token."""
        frame = self._frame
        params = self._params.get(id(group.params))
        if params is None:
            fields = group.params.to_dict()
            fields.pop("num_samples", None)
            fields.pop("seed", None)
            params = self._params[id(group.params)] = len(frame.params)
            # The id of an object is its own only while it lives.
            self._kept.append(group.params)
            frame.params.append(msgspec.Raw(_encoder.encode(fields)))
        revision = self._revisions.get(id(group.ref))
        if revision is None:
            revision = self._revisions[id(group.ref)] = len(frame.revisions)
            frame.revisions.append(group.ref)
        rows = []
        for child in children:
            length = len(child.columns)
            child.started = length
            rows.append(
                Child(self._handle(child, cost), child.k, child.attempt, child.seed, length)
            )
            if length:
                self._output_columns.append(child.columns.token_ids.data)
                self._bytes += length << 2
        prompt = group.prompt_ids
        frame.submits.append(
            Submit(
                group.seq,
                len(frame.prompts),
                params,
                revision,
                rows,
                group.is_interactive or is_urgent,
            )
        )
        frame.prompts.append(len(prompt))
        self._prompt_columns.append(prompt)
        self._bytes += prompt.nbytes + _HEADER_BYTES * len(rows)
        self.is_dirty = True

    def join(self, child: ChildWork) -> None:
        """Go on with a stream that this incarnation has been running for us."""
        handle = self._handle(child, child.cost)
        self._frame.joins.append(
            Join(handle, child.group.seq, child.k, child.attempt, len(child.columns))
        )
        self.is_dirty = True

    def arrived(self, child: ChildWork) -> int:
        """Tokens that have come of a sequence, here and before."""
        is_here = self.children.get(child.handle) is child
        return len(child.columns) + (self.lanes.tokens(child.handle) if is_here else 0)

    def has_begun(self, child: ChildWork) -> bool:
        """Its present attempt, which is here, has made a token."""
        return self.arrived(child) > child.started

    def cancel(self, handle: int) -> None:
        """End a stream; its handle comes back with the server's last word."""
        self._frame.cancels.append(handle)
        self.is_dirty = True

    def forget(self, stale: Iterable[CancelId]) -> None:
        """End attempts that an earlier session of this incarnation left behind."""
        self._frame.cancel_ids.extend(stale)
        self.is_dirty = self.is_dirty or bool(self._frame.cancel_ids)

    def drop(self, handle: int) -> ChildWork | None:
        """Stop listening to a handle, which stays taken until the server's last word on it."""
        child = self.children.pop(handle, None)
        if child is not None:
            self._dropped[handle] = attempt_of(child)
            self._count_out(child)
        return child

    def drop_all(self) -> list[ChildWork]:
        """Stop listening to everything."""
        found = [self.drop(handle) for handle in list(self.children)]
        return [child for child in found if child is not None]

    def release(self, handle: int) -> ChildWork | None:
        """The server has said its last word on a handle."""
        child = self.children.pop(handle, None)
        if child is not None:
            self._free.append(handle)
            self._count_out(child)
        elif handle in self._dropped:
            del self._dropped[handle]
            is_cancel_unsent = handle in self._frame.cancels
            (self._freed if is_cancel_unsent else self._free).append(handle)
        return child

    def _count_out(self, child: ChildWork) -> None:
        child.seen = self.lanes.close(child.handle, child.columns)
        self.inflight_tokens -= child.cost
        self.load_tokens -= child.cost
        if child is self.reserved_for:
            self.reserved_for = None

    def ack(self, handle: int) -> None:
        """The columns of a finished stream have arrived."""
        self._acks.append(handle)
        self.is_dirty = True

    def take_frame(self, demand: tuple[int, int] | None = None, bye: bool = False) -> bytes:
        """The frame with everything said since the last one."""
        frame = self._frame
        frame.demand = demand
        frame.bye = bye
        frame.acks = len(self._acks)
        columns: list[Any] = [*self._prompt_columns, *self._output_columns]
        if self._acks:
            columns.append(b"".join(h.to_bytes(4, "little") for h in self._acks))
        data = encode_frame(frame, columns)
        self._free += self._freed
        self._freed.clear()
        self._reset()
        return data

    @property
    def unheard(self) -> list[CancelId]:
        """What was ended here, and may not have been heard there."""
        return list(self._dropped.values())

    def drop_session(self) -> list[ChildWork]:
        """The session is gone: everything in flight, in order of submission."""
        lost = list(self.children.values())
        for child in lost:
            child.seen = self.lanes.close(child.handle, child.columns)
        self.children.clear()
        self._dropped.clear()
        self._free.clear()
        self._freed.clear()
        self._next_handle = 0
        self.inflight_tokens = 0
        self.load_tokens = 0
        self.reserved_for = None
        self.grant = _NO_GRANT
        self._reset()
        return lost
