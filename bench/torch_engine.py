"""TorchSampler against transformers' ``generate`` on one machine: wanted tokens per second.

Three cases on a 135M instruct model, float32, the same threads, random prompts of 37 tokens,
temperature 1: ``equal_length`` (16 sequences of 32 tokens), ``ragged`` (32 sequences of 4 to 128
tokens) and ``joining`` (the ragged ones, eight at a time, one wave every ``interval``).

Ours goes through ``TorchSampler.asample``, one call a sequence, with logprobs. The baseline is one
``generate`` call with its KV cache and without logprobs; it ends each row at its own length, and
where requests join it takes what has arrived when its last batch is done. Only wanted tokens count.
Both sides alternate; the figures are medians, the ratios are ours / baseline.

``loop_lag``: of the event loop that calls TorchSampler. ``server_reply``: a trivial request to a
torch server process, answered by the loop that carries its sessions, while it generates.
"""

import asyncio
import http.client
import importlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# Before torch: both sides run with the engine's setting of OpenMP.
import sampler_server.engines.torch  # noqa: F401  # isort: skip
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.report import Row, arguments, publish

PROMPT_TOKENS = 37
WAVE = 8
LAG_PERIOD_SECONDS = 0.005

ROWS: list[Row] = [
    ("equal_length_ratio", "ours / generate", 1.2, ">="),
    ("ragged_ratio", "ours / generate", 1.6, ">="),
    ("joining_ratio", "ours / generate", None, ""),
    ("equal_length_tokens_per_s", "tokens/s", None, ""),
    ("ragged_tokens_per_s", "tokens/s", None, ""),
    ("joining_tokens_per_s", "tokens/s", None, ""),
    ("loop_lag_p99_ms", "ms, the caller's event loop", 50, "<="),
    ("server_reply_p99_ms", "ms, a server's event loop", 50, "<="),
]


def prompts(count: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Random ordinary token ids, [count][PROMPT_TOKENS]."""
    rng = np.random.default_rng(seed)
    return [[int(i) for i in row] for row in rng.integers(100, vocabulary, (count, PROMPT_TOKENS))]


def spread(count: int, low: int, high: int) -> list[int]:
    """Lengths from low to high in a fixed, mixed order."""
    lengths = np.linspace(low, high, count).astype(int)
    return [int(n) for n in np.random.default_rng(1).permutation(lengths)]


class Ours:
    """TorchSampler, driven from an event loop whose lag is watched."""

    def __init__(self, directory: Path, threads: int) -> None:
        from sampler_server import TorchSampler

        self.sampler = TorchSampler(str(directory), dtype="float32", slots=32, threads=threads)
        self.lags: list[float] = []

    def run(self, inputs: list[list[int]], lengths: list[int], arrivals: list[float]) -> float:
        """Seconds from the first arrival to the last token."""
        return asyncio.run(self._run(inputs, lengths, arrivals))

    async def _run(
        self, inputs: list[list[int]], lengths: list[int], arrivals: list[float]
    ) -> float:
        watch = asyncio.create_task(self._watch())
        start = time.perf_counter()
        calls = zip(inputs, lengths, arrivals, strict=True)
        found = await asyncio.gather(*(self._one(*call) for call in calls))
        seconds = time.perf_counter() - start
        watch.cancel()
        for response, length in zip(found, lengths, strict=True):
            sequence = response[0].sequences[0]
            if len(sequence.tokens) != length or len(sequence.logprobs) != length:
                raise SystemExit(f"a sequence has {len(sequence.tokens)} of {length} tokens")
        return seconds

    async def _one(self, ids: list[int], length: int, arrival: float) -> Any:
        await asyncio.sleep(arrival)
        params = {"max_tokens": length, "logprobs": 1, "ignore_eos": True}
        return await self.sampler.asample({"input_ids": ids}, params)

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_PERIOD_SECONDS)
            self.lags.append(time.perf_counter() - before - LAG_PERIOD_SECONDS)


class Baseline:
    """``generate``, one batch at a time."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.model.train(False)

    def run(self, inputs: list[list[int]], lengths: list[int], arrivals: list[float]) -> float:
        """Seconds from the first arrival to the last token."""
        start = time.perf_counter()
        waiting = sorted(zip(arrivals, inputs, lengths, strict=True), key=lambda call: call[0])
        while waiting:
            now = time.perf_counter() - start
            batch = [call for call in waiting if call[0] <= now]
            if batch:
                waiting = waiting[len(batch) :]
                self._batch([call[1] for call in batch], [call[2] for call in batch])
            else:
                time.sleep(waiting[0][0] - now)
        return time.perf_counter() - start

    def _batch(self, inputs: list[list[int]], lengths: list[int]) -> None:
        from transformers import StoppingCriteriaList

        ids = torch.tensor(inputs)
        ends = torch.tensor(lengths) + PROMPT_TOKENS

        def is_done(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return tokens.shape[1] >= ends

        with torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(lengths),
                # No sequence may end before its length.
                min_new_tokens=max(lengths),
                stopping_criteria=StoppingCriteriaList([is_done]),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                pad_token_id=0,
            )


def measure(ours: Ours, baseline: Baseline, is_short: bool, interval: float) -> dict[str, Any]:
    """Tokens per second of both sides in all cases: {"ours": {case: …}, "baseline": {case: …}}."""
    ragged = spread(8, 4, 32) if is_short else spread(32, 4, 128)
    equal = [8] * 8 if is_short else [32] * 16
    waves = [interval * (i // (2 if is_short else WAVE)) for i in range(len(ragged))]
    cases = {
        "equal_length": (equal, [0.0] * len(equal)),
        "ragged": (ragged, [0.0] * len(ragged)),
        "joining": (ragged, waves),
    }
    vocabulary = int(baseline.model.config.vocab_size)
    sides: dict[str, Any] = {"ours": ours, "baseline": baseline}
    rates: dict[str, dict[str, list[float]]] = {
        side: {case: [] for case in cases} for side in sides
    }
    for side in sides.values():
        side.run(prompts(4, vocabulary, 0), [4] * 4, [0.0] * 4)
    ours.lags.clear()
    for turn in range(1 if is_short else 5):
        for case, (lengths, arrivals) in cases.items():
            inputs = prompts(len(lengths), vocabulary, turn + 1)
            for name, side in sides.items():
                seconds = side.run(inputs, lengths, arrivals)
                rates[name][case].append(sum(lengths) / seconds)
    return {
        side: {case: round(statistics.median(found), 2) for case, found in by_case.items()}
        for side, by_case in rates.items()
    }


def model_directory(given: str | None) -> Path:
    """The directory of ``--model``, or the demo's model, made on first use."""
    if given is not None:
        return Path(given)
    found: Path = importlib.import_module("demo.smollm2").ensure_model(
        log=lambda text: print(text, file=sys.stderr)
    )
    return found


@contextmanager
def server(directory: Path, threads: int) -> Iterator[dict[str, int]]:
    """A torch server process; its ports."""
    words = ["-m", "sampler_cli.main", "serve", "--engine", "torch", "--model", str(directory)]
    words += ["--port", "0", "--manage-port", "0", "--listen-seconds", "0"]
    words += ["--dtype", "float32", "--log-level", "warning"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def server_replies(directory: Path, threads: int, is_short: bool) -> list[float]:
    """Seconds until the server's event loop answers a trivial request, over and over, while it
    generates for a session."""
    from sampler_client import RemoteSampler

    number, tokens = (4, 16) if is_short else (16, 64)
    found: list[float] = []
    with (
        server(directory, threads) as ports,
        RemoteSampler(f"http://127.0.0.1:{ports['port']}") as sampler,
    ):
        inputs = [{"input_ids": ids} for ids in prompts(number, 30_000, 9)]
        sampler.sample(inputs[:1], {"max_tokens": 2})
        is_over = threading.Event()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", ports["manage_port"])
            while not is_over.is_set():
                begun = time.perf_counter()
                connection.request("GET", "/livez")
                connection.getresponse().read()
                found.append(time.perf_counter() - begun)
                is_over.wait(LAG_PERIOD_SECONDS)
            connection.close()

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            params = {"max_tokens": tokens, "logprobs": 1, "ignore_eos": True}
            sampler.sample(inputs, params)
        finally:
            is_over.set()
            asking.join()
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", help="directory of another model")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between waves")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    directory = model_directory(options.model)
    replies = server_replies(directory, options.threads, options.short)
    baseline = Baseline(directory)
    ours = Ours(directory, options.threads)
    interval = options.interval / 4 if options.short else options.interval
    with ours.sampler:
        rates = measure(ours, baseline, options.short, interval)
    figures = {f"{case}_tokens_per_s": rate for case, rate in rates["ours"].items()}
    others = {f"{case}_tokens_per_s": rate for case, rate in rates["baseline"].items()}
    ratio = {case: rate / rates["baseline"][case] for case, rate in rates["ours"].items()}
    publish(
        "torch_engine",
        ROWS,
        {
            **{f"{case}_ratio": value for case, value in ratio.items()},
            **figures,
            "loop_lag_p99_ms": float(np.percentile(ours.lags, 99)) * 1e3,
            "server_reply_p99_ms": float(np.percentile(replies, 99)) * 1e3,
        },
        others,
        ratio,
        as_json=options.json,
        packages=("sampler-operator", "torch", "transformers"),
    )


if __name__ == "__main__":
    main()
