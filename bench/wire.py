"""Bytes and nanoseconds that a generated token costs between server and client.

``bytes_per_token``: a real sim server sends 1,024 sequences of 256 tokens with logprobs at 64
tokens per second each, in real time and under the flush rules of production, to one RemoteSampler;
every byte that the server writes to the socket counts, handshake and heartbeats included. ``_slow``
is the same at 10 tokens per second.

``decode_ns_per_token``: frames of 1,024 deltas of 32 tokens with logprobs to the final arrays of
every sequence, in CPU time, the median of 25 turns. The arrays are views of rows, as the client
gives them: a C-contiguous copy of each is not in the figure, nor is their end. ``_lowest``: the
fastest of the turns, which says what the code costs where nothing else uses the processor.
``_of_two``: deltas of 2 tokens, as they come where a server flushes often. ``_whole``: the frames
of 32 through the client's state machine to SampledSequences.

Baseline: the same deltas as JSON lists in server-sent events, as OpenAI-compatible servers send
them, decoded by msgspec; bytes without HTTP framing.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.report import Row, arguments, publish
from bench.sim_fleet import ByteCounter, SimFleet

from sampler_api.codec import DeltaWriter, decode_server, deltas, encode_frame
from sampler_api.columns import Chunks
from sampler_api.frames import (
    LENGTH,
    RUNNING,
    Grant,
    ModelCard,
    RevisionRef,
    ServerFrame,
    ServerHello,
)
from sampler_api.params import SamplingParams
from sampler_api.revisions import Revision
from sampler_client import ClientSettings, RemoteSampler
from sampler_client.dispatcher import Dispatcher
from sampler_client.lanes import Lanes
from sampler_client.replica import Replica
from sampler_core.calls import respond
from sampler_core.groups import Group
from sampler_core.view import InputView

SEQUENCES = 1024
TOKENS = 256
DELTA = 32
BASE = "sha256:" + "0" * 64

ROWS: list[Row] = [
    ("bytes_per_token", "bytes, 64 tokens/s a sequence", 8.5, "<="),
    ("bytes_per_token_slow", "bytes, 10 tokens/s a sequence", None, ""),
    ("decode_ns_per_token", "ns, frames to arrays", 20, "<="),
    ("decode_ns_per_token_lowest", "ns, the fastest turn", None, ""),
    ("decode_ns_per_token_of_two", "ns, frames of deltas of 2 tokens to arrays", None, ""),
    ("decode_ns_per_token_whole", "ns, frames to SampledSequences", None, ""),
]


def bytes_per_token(rate: float, sequences: int, tokens: int) -> float:
    """Bytes from a real server at ``rate`` tokens per second and sequence."""
    options = ("--sim-decode-rate", str(rate), "--max-num-seqs", str(sequences))
    with SimFleet(1, *options) as fleet, ByteCounter(fleet.ports[0]) as counter:
        with RemoteSampler(f"http://127.0.0.1:{counter.port}") as sampler:
            inputs = [{"input_ids": [i % 256, i // 256, 7]} for i in range(sequences)]
            params = SamplingParams(max_tokens=tokens, logprobs=1, seed=1)
            answers = sampler.sample(inputs, params)
        made = sum(len(sequence.token_ids) for sequence in answers.sequences)
        if made != sequences * tokens:
            raise SystemExit(f"{made} tokens arrived instead of {sequences * tokens}")
        return counter.received / made


class Deltas:
    """The deltas of ``sequences`` sequences, ``length`` tokens each, frame by frame."""

    def __init__(self, sequences: int, length: int = DELTA) -> None:
        draw = np.random.default_rng(1)
        steps = TOKENS // length
        self.sequences = sequences
        self.tokens = draw.integers(0, 150_000, (steps, sequences, length), np.int32)
        self.logprobs = -draw.random((steps, sequences, length), np.float32)
        self.frames = [self._frame(step, steps) for step in range(steps)]

    def _frame(self, step: int, steps: int) -> bytes:
        writer = DeltaWriter()
        flag = LENGTH if step == steps - 1 else RUNNING
        for handle in range(self.sequences):
            tokens, logprobs = self.tokens[step, handle], self.logprobs[step, handle]
            writer.add(handle, flag, 1, tokens.tobytes(), logprobs.tobytes())
        blocks, prompts, columns = writer.finish()
        return encode_frame(ServerFrame(blocks=blocks, prompts=prompts), columns)

    def events(self) -> list[list[bytes]]:
        """The baseline's events: one JSON object a delta."""
        return [
            [
                b"data: "
                + msgspec.json.encode({"index": i, "tokens": t, "logprobs": p, "finish": None})
                + b"\n\n"
                for i, (t, p) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True))
            ]
            for tokens, logprobs in zip(self.tokens, self.logprobs.round(6), strict=True)
        ]


class _Receiver:
    __slots__ = ("columns",)

    def __init__(self) -> None:
        self.columns = Chunks(1)


def decode(work: Deltas) -> Callable[[], object]:
    """Work that turns frames into the arrays of every sequence, all of them submitted before."""
    receivers = {handle: _Receiver() for handle in range(work.sequences)}
    lanes = Lanes(receivers)
    for handle in receivers:
        lanes.open(handle, 0)
    return lambda: _decode(work, receivers, lanes)


def _decode(work: Deltas, receivers: dict[int, _Receiver], lanes: Lanes) -> object:
    for data in work.frames:
        frame, columns = decode_server(data)
        assert isinstance(frame, ServerFrame)
        for block in deltas(frame.blocks, columns)[0]:
            lanes.take(block, 0)
    arrays = []
    for handle, receiver in receivers.items():
        lanes.close(handle, receiver.columns)
        arrays.append(receiver.columns.arrays())
    assert len(arrays[-1][0]) == TOKENS
    return arrays


class WholePath:
    """The client's state machine with everything already submitted."""

    def __init__(self, work: Deltas) -> None:
        number = work.sequences
        card = ModelCard("m", "sim", BASE, None, 1 << 20, 1 << 20, (), ("processed",), 8)
        grant = Grant(1, number, 1 << 40)
        self.replica = Replica("http://a", ServerHello("a", "a-1", card, grant))
        self.dispatcher = Dispatcher(ClientSettings(), lambda replica: None)
        self.done: list[Group] = []
        self.frames = work.frames
        self.prompt = np.arange(8, dtype=np.int32)
        params = SamplingParams(max_tokens=TOKENS, logprobs=1)
        ref = RevisionRef(BASE)
        groups = [
            Group(i, self.prompt, params, ref, [None], i, self.done.append) for i in range(number)
        ]
        self.dispatcher.connected(self.replica, [])
        self.dispatcher.submit(groups)
        self.replica.take_frame()

    def run(self) -> object:
        """Frames to responses."""
        for data in self.frames:
            self.dispatcher.frame(self.replica, data)
        view = InputView({"input_ids": self.prompt}, self.prompt, None)
        revision = Revision(BASE)
        answers = [respond(group, view, revision) for group in self.done]
        assert len(answers[-1].sequences[0].token_ids) == TOKENS
        return answers


class _Event(msgspec.Struct):
    index: int
    tokens: list[int]
    logprobs: list[float]
    finish: str | None


def decode_json(events: list[list[bytes]]) -> object:
    """Events to the arrays of every sequence."""
    tokens: list[list[int]] = [[] for _ in events[0]]
    logprobs: list[list[float]] = [[] for _ in events[0]]
    read = msgspec.json.Decoder(_Event).decode
    for step in events:
        for event in step:
            found = read(event[6:])
            tokens[found.index] += found.tokens
            logprobs[found.index] += found.logprobs
    arrays = [
        (np.array(ids, np.int32), np.array(values, np.float32))
        for ids, values in zip(tokens, logprobs, strict=True)
    ]
    assert len(arrays[-1][0]) == TOKENS
    return arrays


def ns_per_token(
    run: Callable[[], Callable[[], object]], tokens: int, turns: int
) -> tuple[float, float]:
    """Median and lowest of ``turns``; ``run`` prepares one turn."""
    found = []
    for _ in range(turns):
        work = run()
        # CPU time: what else runs on the machine does not count.
        start = time.thread_time_ns()
        made = work()
        found.append((time.thread_time_ns() - start) / tokens)
        # To drop them is the reader's part, and no turn's.
        del made, work
    return statistics.median(found), min(found)


def main() -> None:
    options = arguments(__doc__).parse_args()
    sequences, tokens, slow_tokens = SEQUENCES, TOKENS, TOKENS
    if options.short:
        sequences, tokens, slow_tokens = 256, 128, 32
    work = Deltas(SEQUENCES)
    count = SEQUENCES * TOKENS
    turns = 5 if options.short else 25
    median, lowest = ns_per_token(lambda: decode(work), count, turns)
    short = Deltas(SEQUENCES, 2)
    figures = {
        "decode_ns_per_token": median,
        "decode_ns_per_token_lowest": lowest,
        "decode_ns_per_token_of_two": ns_per_token(lambda: decode(short), count, turns)[0],
        "decode_ns_per_token_whole": ns_per_token(lambda: WholePath(work).run, count, turns)[0],
        "bytes_per_token": bytes_per_token(64, sequences, tokens),
        "bytes_per_token_slow": bytes_per_token(10, sequences, slow_tokens),
    }
    # Made last: its twelve megabytes of small pieces would lie between what is decoded above.
    events = work.events()
    baseline = {
        "bytes_per_token": sum(len(event) for step in events for event in step) / count,
        "decode_ns_per_token": ns_per_token(
            lambda: lambda: decode_json(events), count, max(3, turns // 5)
        )[0],
    }
    ratio = {name: value / figures[name] for name, value in baseline.items()}
    publish("wire", ROWS, figures, baseline, ratio, as_json=options.json)


if __name__ == "__main__":
    main()
