"""A replica as the client's state machine meets it: frames in both directions, no socket.

``take`` decodes what the client would send now; ``give`` and ``end`` collect answers, ``flush``
hands them over as one frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sampler_api.codec import DeltaWriter, client_columns, decode_client, encode_frame
from sampler_api.errors import SamplerError
from sampler_api.frames import (
    ERROR,
    LENGTH,
    RUNNING,
    Beat,
    ClientFrame,
    Detail,
    Grant,
    Load,
    ModelCard,
    RevisionRef,
    ServerFrame,
    ServerHello,
)
from sampler_api.params import SamplingParams
from sampler_client.dispatcher import Dispatcher
from sampler_client.replica import Replica
from sampler_core.groups import ChildWork, Group

__all__ = ["BASE", "Asked", "FakeReplica", "Said", "hello_of", "make_group"]

BASE = "sha256:" + "0" * 64
EOS = 9


class Asked(NamedTuple):
    """One child of a submit, with the tokens that came along."""

    seq: int
    child: int
    attempt: int
    seed: int | None
    output: tuple[int, ...]


class Said(NamedTuple):
    """One frame of the client, by handle where there is one."""

    frame: ClientFrame
    asked: dict[int, Asked]
    prompts: list[tuple[int, ...]]
    acks: list[int]


def hello_of(
    replica: str = "a",
    incarnation: str = "a-1",
    *,
    sequences: int = 8,
    tokens: int = 1_000_000,
    base: str = BASE,
    context_limit: int = 4096,
    max_frame_bytes: int = 64 << 20,
    succeeds: tuple[str, ...] = (),
) -> ServerHello:
    """The first frame of a replica that grants so much."""
    card = ModelCard(
        model="m",
        engine="fake",
        base=base,
        tokenizer=None,
        vocab_size=1000,
        context_limit=context_limit,
        eos_ids=(EOS,),
        logprobs_modes=("processed",),
        max_logprobs=8,
    )
    grant = Grant(1, sequences, tokens)
    return ServerHello(
        replica, incarnation, card, grant, max_frame_bytes=max_frame_bytes, succeeds=succeeds
    )


def make_group(
    n: int = 1,
    *,
    done: list[Group] | None = None,
    prompt: Sequence[int] = (1, 2, 3),
    max_tokens: int | None = 16,
    base: str = BASE,
    key: int = 0,
    seed: int | None = None,
    logprobs: int | None = None,
) -> Group:
    """An input with ``n`` children; it is appended to ``done`` when it has ended."""
    ended = done if done is not None else []
    return Group(
        0,
        np.array(prompt, np.int32),
        SamplingParams(max_tokens=max_tokens, logprobs=logprobs),
        RevisionRef(base),
        [None if seed is None else seed + k for k in range(n)],
        key,
        ended.append,
    )


class FakeReplica:
    """The other end of one :class:`Replica`."""

    def __init__(self, dispatcher: Dispatcher, hello: ServerHello, url: str = "") -> None:
        self.dispatcher = dispatcher
        self.replica = Replica(url or f"http://{hello.replica}", hello)
        self.running: dict[int, Asked] = {}
        self._writer = DeltaWriter()
        self._details: list[Detail] = []

    def connect(self, lost: Sequence[ChildWork] = ()) -> None:
        """The session opens; ``lost`` were in flight on the session before."""
        self.replica.grant = self.replica.hello.grant
        self.dispatcher.connected(self.replica, lost)

    def disconnect(self) -> list[ChildWork]:
        """The session breaks; returns what was in flight."""
        self.running.clear()
        return self.dispatcher.disconnected(self.replica)

    def take(self) -> Said:
        """What the client says now."""
        frame, columns = decode_client(self.replica.take_frame())
        assert isinstance(frame, ClientFrame)
        prompts, outputs, acks = client_columns(frame, columns)
        asked: dict[int, Asked] = {}
        for submit in frame.submits:
            for child in submit.children:
                output = _ids(outputs.pop(0)) if child.output_length else ()
                asked[child.handle] = Asked(
                    submit.seq, child.child, child.attempt, child.seed, output
                )
        self.running.update(asked)
        return Said(frame, asked, [_ids(prompt) for prompt in prompts], acks)

    def give(self, handle: int, tokens: Sequence[int], flag: int = RUNNING) -> None:
        """New tokens of a stream."""
        self._writer.add(handle, flag, 0, np.array(tokens, np.int32).tobytes(), b"")
        if flag != RUNNING:
            self.running.pop(handle, None)

    def score(self, handle: int, logprobs: NDArray[np.float32]) -> None:
        """Prompt logprobs of a stream, f32 [P]."""
        self._writer.add_prompt(handle, 0, logprobs.tobytes(), b"", b"")

    def end(
        self,
        handle: int,
        flag: int = LENGTH,
        tokens: Sequence[int] = (),
        *,
        error: SamplerError | None = None,
        matched: str | int | None = None,
    ) -> None:
        """The last word on a stream."""
        self.give(handle, tokens, ERROR if error else flag)
        if error is not None:
            self._details.append(Detail(handle, None, error.code, error.message, error.field))
        elif matched is not None:
            self._details.append(Detail(handle, matched))

    def flush(
        self,
        *,
        grant: Grant | None = None,
        load: Load | None = None,
        beats: Sequence[int] = (),
        draining: bool = False,
    ) -> None:
        """One frame with everything that was given."""
        blocks, prompts, columns = self._writer.finish()
        frame = ServerFrame(
            blocks=blocks,
            prompts=prompts,
            details=self._details,
            beats=[Beat(list(beats), 0, 1)] if beats else [],
            load=load,
            grant=grant,
            draining=draining,
        )
        self._writer, self._details = DeltaWriter(), []
        self.dispatcher.frame(self.replica, encode_frame(frame, columns))

    def finish_all(self, tokens: Sequence[int] = (5,)) -> None:
        """End everything that runs with ``tokens``, in one frame."""
        for handle in list(self.running):
            self.end(handle, LENGTH, tokens)
        self.flush()


def _ids(view: memoryview) -> tuple[int, ...]:
    return tuple(np.frombuffer(view, np.int32).tolist())
