"""Requests per second of one client process, against four sim servers that answer at once.

A request is one input of 128 prompt ids that gives one sequence of 16 tokens with logprobs; its
``tokens``, the column of its logprobs and a row of them are read. Forms: (a) one ``sample`` of all
of them, (b) as many ``asample`` at the same time, (c) 16 threads that call ``sample`` for one input
after another. ``cpu_us`` is the CPU time of the client process, all its threads, a request. The
servers run on the same cores.

Baseline: the same frames over bare WebSockets, 256 requests a frame, answered by processes that do
nothing but read the header and fill in columns, read by a client without any bookkeeping.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.report import Row, arguments, publish
from bench.sim_fleet import SimFleet

from sampler_api.codec import DeltaWriter, decode_client, decode_server, encode_frame
from sampler_api.frames import LENGTH, Child, ClientFrame, RevisionRef, ServerFrame, Submit
from sampler_api.logprobs import LogprobRows
from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler, SamplingParams
from sampler_core.base import SamplerBase

REQUESTS = 20_000
SERVERS = 4
THREADS = 16
PROMPT = 128
TOKENS = 16
BATCH = 256

ROWS: list[Row] = [
    ("requests_per_s", "/s, one sample of all", 10_000, ">="),
    ("cpu_us_per_request", "us of client CPU", None, ""),
    ("server_cpu_us_per_request", "us of CPU of the four servers", None, ""),
    ("requests_per_s_async", "/s, all asample at once", 5_000, ">="),
    ("cpu_us_per_request_async", "us of client CPU", None, ""),
    ("requests_per_s_threads", "/s, 16 threads, one sample at a time", None, ""),
    ("cpu_us_per_request_threads", "us of client CPU", None, ""),
]


class Stopwatch:
    """Wall and CPU time of this process, and CPU time of the servers."""

    def __init__(self, fleet: SimFleet | None = None) -> None:
        self._fleet = fleet
        self._servers = fleet.cpu_seconds() if fleet else 0.0
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self, requests: int) -> tuple[float, float, float]:
        """Requests per second, client CPU and server CPU in microseconds a request."""
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu
        servers = (self._fleet.cpu_seconds() if self._fleet else 0.0) - self._servers
        return requests / wall, cpu / requests * 1e6, servers / requests * 1e6


def make_inputs(number: int) -> list[dict[str, Any]]:
    """Prompts as data loaders give them: lists of ids."""
    ids = np.random.default_rng(1).integers(0, 256, (number, PROMPT))
    return [{"input_ids": row} for row in ids.tolist()]


def touch(sequence: SampledSequence) -> None:
    """Read a result as a trainer does."""
    assert len(sequence.tokens) == TOKENS
    assert isinstance(sequence.logprobs, LogprobRows)
    assert sequence.logprobs.sampled[-1] < 0
    assert sequence.logprobs[0][0][0] == sequence.tokens[0]


def params() -> SamplingParams:
    return SamplingParams(max_tokens=TOKENS, logprobs=1)


def one_call(sampler: SamplerBase, inputs: list[dict[str, Any]]) -> None:
    """Form a."""
    for sequence in sampler.sample(list(inputs), params()).sequences:
        touch(sequence)


def many_async(sampler: SamplerBase, inputs: list[dict[str, Any]]) -> None:
    """Form b."""

    async def one(feature: dict[str, Any], shared: SamplingParams) -> None:
        touch((await sampler.asample(feature, shared))[0].sequences[0])

    async def run() -> None:
        shared = params()
        await asyncio.gather(*(one(feature, shared) for feature in inputs))

    _run(run)


def many_threads(sampler: SamplerBase, inputs: list[dict[str, Any]]) -> None:
    """Form c."""

    def work(start: int) -> None:
        for feature in inputs[start::THREADS]:
            touch(sampler.sample(feature, params())[0].sequences[0])

    threads = [threading.Thread(target=work, args=[start]) for start in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _run(work: Callable[[], Awaitable[None]]) -> None:
    import uvloop

    async def main() -> None:
        await work()

    uvloop.run(main())


# -- the baseline ----------------------------------------------------------------------------------


async def _echo() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    tokens = np.arange(TOKENS, dtype=np.int32).tobytes()
    logprobs = np.full(TOKENS, -1.0, np.float32).tobytes()

    async def answer(socket: ServerConnection) -> None:
        async for data in socket:
            frame, _ = decode_client(data)  # type: ignore[arg-type]
            assert isinstance(frame, ClientFrame)
            writer = DeltaWriter()
            for submit in frame.submits:
                for child in submit.children:
                    writer.add(child.handle, LENGTH, 1, tokens, logprobs)
            blocks, prompts, columns = writer.finish()
            await socket.send(encode_frame(ServerFrame(blocks=blocks, prompts=prompts), columns))

    async with serve(answer, "127.0.0.1", 0, compression=None, max_size=1 << 26) as server:
        print(json.dumps(next(iter(server.sockets)).getsockname()[1]), flush=True)
        await server.wait_closed()


async def _bare_client(port: int, inputs: list[Any]) -> None:
    from websockets.asyncio.client import connect

    async with connect(
        f"ws://127.0.0.1:{port}", compression=None, max_size=1 << 26, proxy=None
    ) as socket:
        batches = [inputs[i : i + BATCH] for i in range(0, len(inputs), BATCH)]

        async def send() -> None:
            for batch in batches:
                rows = [Submit(i, i, 0, 0, [Child(i, 0, 0, None, 0)]) for i in range(len(batch))]
                frame = ClientFrame(
                    revisions=[RevisionRef("b")], prompts=[PROMPT] * len(batch), submits=rows
                )
                columns = [np.array(each["input_ids"], np.int32).data for each in batch]
                await socket.send(encode_frame(frame, columns))

        sender = asyncio.create_task(send())
        for _ in batches:
            frame, columns = decode_server(await socket.recv(decode=False))
            assert isinstance(frame, ServerFrame)
            (block,) = frame.blocks
            start = len(columns) - block.tokens * 8
            values = np.frombuffer(columns, np.int32, 2 * block.tokens, start)
            for i in range(0, block.tokens, TOKENS):
                ids = values[i : i + TOKENS].tolist()
                logprobs = values[block.tokens + i : block.tokens + i + TOKENS].view(np.float32)
                assert len(ids) == TOKENS
                assert logprobs[-1] < 0
        await sender


def bare(inputs: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Requests per second and client CPU of the baseline."""
    processes = [
        subprocess.Popen([sys.executable, __file__, "--echo"], stdout=subprocess.PIPE, text=True)
        for _ in range(SERVERS)
    ]
    try:
        ports = []
        for process in processes:
            assert process.stdout is not None
            ports.append(json.loads(process.stdout.readline()))

        async def run() -> None:
            shares = [_bare_client(port, inputs[i::SERVERS]) for i, port in enumerate(ports)]
            await asyncio.gather(*shares)

        watch = Stopwatch()
        _run(run)
        return watch.read(len(inputs))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--echo", action="store_true", help="be a process of the baseline")
    parser.add_argument("--form", choices="abc", help="only this form; no baseline")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args()
    if options.echo:
        _run(_echo)
        return
    number = 4000 if options.short else options.requests
    inputs = make_inputs(number)
    forms = {"a": one_call, "b": many_async, "c": many_threads}
    suffix = {"a": "", "b": "_async", "c": "_threads"}
    figures: dict[str, float] = {}
    with SimFleet(SERVERS) as fleet, RemoteSampler(fleet.endpoints) as sampler:
        one_call(sampler, inputs[:1000])
        for form, work in forms.items():
            if options.form not in (None, form):
                continue
            watch = Stopwatch(fleet)
            work(sampler, inputs)
            rate, cpu, servers = watch.read(number)
            figures[f"requests_per_s{suffix[form]}"] = rate
            figures[f"cpu_us_per_request{suffix[form]}"] = cpu
            figures[f"server_cpu_us_per_request{suffix[form]}"] = servers
    baseline: dict[str, float] = {}
    if options.form is None:
        rate, cpu, _ = bare(inputs)
        baseline = {"requests_per_s": rate, "cpu_us_per_request": cpu}
    ratio = {name: figures[name] / value for name, value in baseline.items()}
    rows = [row for row in ROWS if row[0] in figures]
    publish("client_path", rows, figures, baseline, ratio, as_json=options.json)


if __name__ == "__main__":
    main()
