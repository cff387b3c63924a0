"""The sequences of a replica: which run, which wait for their ack, which lost their session.

Pure bookkeeping: the clock is passed in, engines and sockets are somebody else's. A stream is found
by the engine's key while it runs, and by (client, id) until it is acked, expires, or is superseded
by a higher attempt.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from sampler_api.columns import Columns
from sampler_api.errors import SamplerError, UnknownRequest
from sampler_api.frames import ERROR, RUNNING
from sampler_core.stops import StopMatcher

from .engines.base import PromptScores
from .settings import StreamSettings

__all__ = ["CHILD_BITS", "Lease", "Listener", "Stream", "StreamTable", "stream_id"]

CHILD_BITS = 16
_OVERHEAD_BYTES = 512


def stream_id(seq: int, child: int) -> int:
    """The id within a client: one integer, which unlike a tuple is no work for the collector."""
    return seq << CHILD_BITS | child


class Listener(Protocol):
    """Who reads a stream."""

    def moved(self, stream: "Stream") -> None:
        """New tokens, prompt scores or an end. Called on the hub's loop; must not block."""
        ...


class Lease:
    """An adapter held in use for some sequences; ``count`` of them still run."""

    __slots__ = ("count", "digest")

    def __init__(self, digest: str, count: int) -> None:
        self.digest = digest
        self.count = count


class Stream:
    """One attempt of one sequence on this replica.

    ``columns`` start behind ``start`` = the number of output tokens that came with the request.
    ``sent`` counts tokens of ``columns``. ``cost`` is its expected KV tokens, for credits.
    """

    __slots__ = (
        "attempt",
        "client",
        "columns",
        "cost",
        "error",
        "flag",
        "handle",
        "id",
        "is_due",
        "is_interactive",
        "is_parked",
        "is_told",
        "k",
        "kept_bytes",
        "key",
        "lease",
        "lease_ends",
        "listener",
        "matched",
        "matcher",
        "not_reproducible",
        "pending_since",
        "prompt_length",
        "scores",
        "scores_sent",
        "sent",
        "since",
        "start",
        "stop_ids",
    )

    def __init__(
        self,
        key: int,
        client: str,
        id: int,  # noqa: A002
        attempt: int,
        prompt_length: int,
        start: int,
        k: int,
        cost: int,
        listener: Listener | None,
        handle: int,
        since: float,
    ) -> None:
        self.key = key
        self.client = client
        self.id = id
        self.attempt = attempt
        self.prompt_length = prompt_length
        self.start = start
        self.k = k
        self.cost = cost
        self.listener = listener
        self.handle = handle
        self.since = since
        """Time of the last token, or of the start; of the end once it has ended."""
        self.columns = Columns(k)
        self.flag = RUNNING
        self.matched: str | int | None = None
        self.error: SamplerError | None = None
        self.sent = 0
        self.pending_since: float | None = None
        self.is_due = False
        self.is_interactive = False
        self.is_parked = False
        """Waits for its adapter; the engine does not know it yet."""
        self.is_told = False
        """Its listener has been told how it ended."""
        self.matcher: StopMatcher | None = None
        self.not_reproducible = False
        self.scores: PromptScores | None = None
        self.scores_sent = False
        self.lease: Lease | None = None
        self.kept_bytes = 0
        self.lease_ends = 0.0
        self.stop_ids: Sequence[int] | None = None

    @property
    def seq(self) -> int:
        """Sequence number of the request at its client."""
        return self.id >> CHILD_BITS

    @property
    def child(self) -> int:
        """Which of the request's samples this is."""
        return self.id & ((1 << CHILD_BITS) - 1)

    @property
    def has_news(self) -> bool:
        """Something that its listener has not been sent."""
        return (
            self.flag != RUNNING
            or self.sent < len(self.columns)
            or (self.scores is not None and not self.scores_sent)
        )

    def bind(self, listener: Listener | None, handle: int, sent: int) -> None:
        """Give the stream to a listener that already holds ``sent`` tokens of ``columns``."""
        self.listener = listener
        self.handle = handle
        self.sent = sent
        self.scores_sent = sent > 0
        self.pending_since = None
        self.is_due = False
        self.is_told = False

    def drop(self) -> bool:
        """Empty the columns, which nobody took for too long; True for a listener to be told."""
        self.columns = Columns(self.k)
        if self.listener is None or self.is_told:
            return False
        # A slow reader resumes from what it holds.
        self.flag = ERROR
        self.matched = None
        self.sent = 0
        self.error = UnknownRequest("the columns were dropped: they waited too long")
        return True


class StreamTable:
    """All streams by engine key (``running``) and by client and id."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self.running: dict[int, Stream] = {}
        self._clients: dict[str, dict[int, Stream]] = {}
        # A plain dict scans over deleted entries to find its first one.
        self._kept: OrderedDict[int, Stream] = OrderedDict()
        self._orphans: deque[tuple[float, list[Stream]]] = deque()
        self.kept_bytes = 0

    def family(self, client: str) -> dict[int, Stream]:
        """The streams of a client by id; not to be held across an ``expire``, which drops it."""
        return self._clients.setdefault(client, {})

    def is_known(self, client: str) -> bool:
        """It has streams here, running or kept."""
        return bool(self._clients.get(client))

    @property
    def has_clients(self) -> bool:
        """Somebody is."""
        return any(self._clients.values())

    def find(self, client: str, id: int, attempt: int) -> Stream:  # noqa: A002
        """The stream of exactly this attempt. Raises UnknownRequest."""
        stream = self._clients.get(client, {}).get(id)
        if stream is None or stream.attempt != attempt:
            held = "" if stream is None else f" (attempt {stream.attempt} is known)"
            raise UnknownRequest(
                f"request {id >> CHILD_BITS}, sample {id & ((1 << CHILD_BITS) - 1)}, attempt "
                f"{attempt} is not known here{held}: submit it with the tokens that were delivered"
            )
        return stream

    def add(self, stream: Stream) -> None:
        """A new running stream; streams without a client live until they end."""
        self.running[stream.key] = stream
        if stream.client:
            self._clients.setdefault(stream.client, {})[stream.id] = stream

    def end(self, stream: Stream, flag: int, now: float) -> None:
        """A running stream has ended; its columns are kept for the ack."""
        stream.flag = flag
        stream.since = now
        self.running.pop(stream.key, None)
        if stream.client:
            columns = stream.columns
            size = _OVERHEAD_BYTES + len(columns.tokens) + len(columns.logprobs)
            size += len(columns.top_ids) + len(columns.top_logprobs)
            stream.kept_bytes = size
            self.kept_bytes += size
            self._kept[stream.key] = stream

    def forget(self, stream: Stream) -> None:
        """Drop every trace of a stream; joining it is an UnknownRequest from now on."""
        self.running.pop(stream.key, None)
        if self._kept.pop(stream.key, None) is not None:
            self.kept_bytes -= stream.kept_bytes
        family = self._clients.get(stream.client)
        if family is not None and family.get(stream.id) is stream:
            del family[stream.id]

    def orphan(self, streams: Iterable[Stream], now: float) -> None:
        """Streams whose session was lost: they run on until the lease ends."""
        lost = list(streams)
        ends = now + self._settings.lease_seconds
        for stream in lost:
            stream.listener = None
            stream.lease_ends = ends
        if lost:
            self._orphans.append((ends, lost))

    def expire(self, now: float) -> tuple[list[Stream], list[Stream]]:
        """Running orphans whose lease has ended (to abort), and kept streams dropped just now."""
        aborted: list[Stream] = []
        while self._orphans and self._orphans[0][0] <= now:
            for stream in self._orphans.popleft()[1]:
                # Joined and lost again meanwhile: a later batch holds it.
                is_over = stream.listener is None and stream.lease_ends <= now
                if is_over and stream.key in self.running:
                    aborted.append(stream)
        dropped: list[Stream] = []
        while self._kept:
            oldest = next(iter(self._kept.values()))
            too_old = oldest.since + self._settings.keep_seconds <= now
            if not too_old and self.kept_bytes <= self._settings.keep_bytes:
                break
            self.forget(oldest)
            dropped.append(oldest)
        for client in [name for name, family in self._clients.items() if not family]:
            del self._clients[client]
        return aborted, dropped

    @property
    def kept(self) -> int:
        """Finished streams that wait for their ack."""
        return len(self._kept)
