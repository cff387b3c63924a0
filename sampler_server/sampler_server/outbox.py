"""What a session sends next: everything that is due, in one frame. No I/O, no clock."""

from collections.abc import Mapping

from sampler_api.codec import DeltaWriter, encode_frame
from sampler_api.errors import SamplerError
from sampler_api.frames import ERROR, LENGTH, RUNNING, STOP, Beat, Detail, Grant, ServerFrame

from .flush import FlushQueue
from .hub import Hub
from .settings import FlushSettings
from .streams import Stream

__all__ = ["Outbox"]

_SCORE_FIELDS = 3


class Outbox:
    """The unsent news of one session, and the frames made of it.

    ``handles`` is the session's own table: streams that end with anything but their complete
    columns leave it, and the hub, as soon as that is said.
    """

    def __init__(
        self, hub: Hub, settings: FlushSettings, handles: dict[int, Stream], now: float
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._handles = handles
        self._queue = FlushQueue(settings)
        self._replies: list[tuple[int, SamplerError]] = []
        self._grant: Grant | None = None
        self._draining = False
        self._urgent_since: float | None = None
        self._sent_at = now
        self._load_at = now
        self._beats_at = now
        self._steps = -1

    # -- news --------------------------------------------------------------------------------------

    def note(self, stream: Stream, now: float) -> bool:
        """A stream has news; True when the next frame may be due earlier than was known."""
        return self._queue.note(stream, now)

    def finish(self, now: float) -> None:
        """Nothing runs any more: no company can come for what is due, which goes out at once."""
        self._urgent_since = now - self._settings.tick_seconds

    def reply(self, handle: int, error: SamplerError, now: float) -> None:
        """A request that was refused; nothing of it runs."""
        self._replies.append((handle, error))
        self._hurry(now)

    def give(self, grant: Grant, is_more: bool, now: float) -> None:
        """A new grant; a higher one does not wait for other news."""
        self._grant = grant
        if is_more:
            self._hurry(now)

    def drain(self, now: float) -> None:
        """Tell the client that the replica is leaving."""
        self._draining = True
        self._hurry(now)

    def _hurry(self, now: float) -> None:
        if self._urgent_since is None:
            self._urgent_since = now

    # -- frames ------------------------------------------------------------------------------------

    def due_at(self) -> float:
        """When the next frame is to be built."""
        due = self._sent_at + self._settings.heartbeat_seconds
        if self._urgent_since is not None:
            due = min(due, self._urgent_since + self._settings.tick_seconds)
        flush = self._queue.due_at()
        return due if flush is None else min(due, flush)

    @property
    def is_empty(self) -> bool:
        """Nothing waits but the next heartbeat."""
        return self._urgent_since is None and self._queue.due_at() is None

    def build(self, now: float) -> bytes:
        """The frame of everything due; its contents count as sent."""
        writer = DeltaWriter()
        frame = ServerFrame(details=[], beats=[])
        self._add_streams(writer, frame.details, now)
        for handle, error in self._replies:
            writer.add(handle, ERROR, 0, b"", b"")
            frame.details.append(Detail(handle, None, error.code, error.message, error.field))
        self._replies.clear()
        frame.blocks, frame.prompts, columns = writer.finish()
        frame.grant, self._grant = self._grant, None
        frame.draining, self._draining = self._draining, False
        if now - self._load_at >= self._settings.load_seconds:
            self._load_at = now
            frame.load = self._hub.load()
            if now - self._beats_at >= self._settings.heartbeat_seconds:
                self._beats_at = now
                self._add_beats(frame.beats, frame.load.steps, now)
        self._urgent_since = None
        self._sent_at = now
        return encode_frame(frame, columns)

    def _add_streams(self, writer: DeltaWriter, details: list[Detail], now: float) -> None:
        taken = self._queue.take(now)
        limit = self._settings.frame_bytes
        size = 0
        handles = self._handles
        for position, stream in enumerate(taken):
            handle = stream.handle
            if handles.get(handle) is not stream:
                continue
            if size > limit:
                self._queue.put_back(taken[position:], now)
                return
            if stream.scores is not None and not stream.scores_sent:
                stream.scores_sent = True
                scores = stream.scores
                writer.add_prompt(
                    handle, scores.k, scores.logprobs, scores.top_ids, scores.top_logprobs
                )
                size += len(scores.logprobs) * (1 + 2 * scores.k)
                if size > limit:
                    # Its tokens too: scores may fill a frame.
                    self._queue.put_back(taken[position:], now)
                    return
            flag = stream.flag
            columns = stream.columns
            length = len(columns.tokens) >> 2
            k = stream.k
            if stream.sent:
                at = stream.sent * 4
                ids, values = columns.top_ids[at * k :], columns.top_logprobs[at * k :]
                sampled = columns.logprobs[at:] if k == 1 else values
                writer.add(handle, flag, k, columns.tokens[at:], sampled, ids)
            elif length or flag != RUNNING:
                # The columns themselves: the frame copies them before anybody can append.
                sampled = columns.logprobs if k == 1 else columns.top_logprobs
                writer.add(handle, flag, k, columns.tokens, sampled, columns.top_ids)
            size += (length - stream.sent) * (4 + 8 * k)
            stream.sent = length
            if flag != RUNNING:
                self._end(stream, flag, details)

    def _end(self, stream: Stream, flag: int, details: list[Detail]) -> None:
        error = stream.error
        if error is not None:
            details.append(Detail(stream.handle, None, error.code, error.message, error.field))
        elif stream.matched is not None or stream.not_reproducible:
            details.append(
                Detail(stream.handle, stream.matched, not_reproducible=stream.not_reproducible)
            )
        stream.is_told = True
        if flag not in (STOP, LENGTH):
            # Only complete columns wait for an ack: anything else the client continues elsewhere.
            del self._handles[stream.handle]
            stream.listener = None
            self._hub.table.forget(stream)

    def _add_beats(self, beats: list[Beat], steps: int, now: float) -> None:
        hub = self._hub
        is_moving = steps != self._steps or bool(hub.operations)
        self._steps = steps
        prefill: Mapping[int, tuple[int, int]] = hub.engine.progress().prefill
        silent = now - self._settings.heartbeat_seconds
        alike: dict[tuple[int, int], list[int]] = {}
        for handle, stream in self._handles.items():
            if stream.flag != RUNNING or stream.since > silent:
                continue
            if is_moving or stream.is_parked:
                length = stream.prompt_length
                progress = (length, length) if len(stream.columns) else (0, length)
                alike.setdefault(prefill.get(stream.key, progress), []).append(handle)
        beats += [Beat(handles, *progress) for progress, handles in alike.items()]
