"""1,000 LoRA adapters published one after another at one server that keeps 8, while a load samples.

Each adapter makes the model say one token of its own (``token_adapters``), so that every sequence
proves by its tokens which weights made it, and names them in its revision and segments. A job
(``adapter_course``) publishes them under two names in turns, from directories of rank 8 on all
linear layers that are removed soon after; four sequences of 16 tokens a step, of the two newest
adapters and of the base, run beside and over the change of their name. A real server process with
the engine torch or vllm, the tiny model, one RemoteSampler.

``publish``: from the call of ``add_adapter_to_model`` to the first token of that adapter.
``growth``: of resident memory, from step 100 to the end; ``slope``: by least squares over the same
steps, in 100 of them. Of the server that is all its processes together.

Baseline: the same load in the same run at another new server, with 8 adapters that stay, published
over and over: what they cost is the request alone, and what memory does then is not the adapters'.

Ends with 1 when a sequence came of other weights or did not come, when more adapters, streams or
file descriptors are left than may be, and in 1,000 steps when memory grows with adapters.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.adapter_course import Course, Footprint, footprint, publish_one_after_another
from bench.program import Program
from bench.report import Row, arguments, publish
from bench.token_adapters import TokenAdapters

from sampler_api.fleet import ReplicaStatus
from sampler_client import RemoteSampler

ADAPTERS: Final = 1000
FEWEST: Final = 20
KEPT: Final = 8
WARM_STEPS: Final = 100
"""Steps after which memory is compared; a tenth of them in a shorter run, if that is less."""
SLOPE_GOAL: Final = 2.0
"""MiB in 100 adapters, more than the baseline: a copy of each would be 7."""
_SETTLE_SECONDS: Final = 10.0

ROWS: Final[list[Row]] = [
    ("publish_p50_ms", "ms to an adapter's first token", None, ""),
    ("publish_p99_ms", "ms to an adapter's first token", None, ""),
    ("sequence_p50_ms", "ms, 16 tokens, of the load", None, ""),
    ("sequence_p99_ms", "ms, 16 tokens, of the load", None, ""),
    ("sequences", "looked at", None, ""),
    ("wrong_revisions", "sequences of other weights", 0, "<="),
    ("lost_requests", "sequences, publishings", 0, "<="),
    ("server_mib", "MiB, all its processes, at the end", None, ""),
    ("server_growth_mib", "MiB after the first 100", None, ""),
    ("server_slope_mib", "MiB in 100 adapters, least squares", None, ""),
    ("slope_over_baseline_mib", "MiB in 100 adapters", SLOPE_GOAL, "<="),
    ("client_growth_mib", "MiB after the first 100", None, ""),
    ("client_slope_mib", "MiB in 100 adapters, least squares", None, ""),
    ("adapters_left", "loaded at the server", KEPT, "<="),
    ("streams_left", "kept by the server", 0, "<="),
    ("descriptors_grown", "open files after the first 100", 0, "<="),
    ("adapters_stored", "directories in the server's store", None, ""),
    ("seconds", "s", None, ""),
]


@dataclass(frozen=True, slots=True)
class Ending:
    """What a server has when its load is over."""

    adapters: int
    streams: int
    stored: int
    footprint: Footprint


def figures_of(course: Course, ending: Ending, first: int, seconds: float) -> dict[str, float]:
    """All but what compares two courses; ``first`` is the step after which memory is compared."""
    published = np.array(course.first_tokens[first:]) * 1e3
    calls = np.array(course.calls) * 1e3
    growth, slope = course.growth("server", first)
    client_growth, client_slope = course.growth("client", first)
    before = min(found.descriptors for step, found in course.server if step >= first)
    return {
        "publish_p50_ms": float(np.percentile(published, 50)),
        "publish_p99_ms": float(np.percentile(published, 99)),
        "sequence_p50_ms": float(np.percentile(calls, 50)),
        "sequence_p99_ms": float(np.percentile(calls, 99)),
        "sequences": course.sequences,
        "wrong_revisions": len(course.wrong),
        "lost_requests": len(course.lost),
        "server_mib": ending.footprint.mib,
        "server_growth_mib": growth,
        "server_slope_mib": slope,
        "client_growth_mib": client_growth,
        "client_slope_mib": client_slope,
        "adapters_left": ending.adapters,
        "streams_left": ending.streams,
        "descriptors_grown": max(0, ending.footprint.descriptors - before),
        "adapters_stored": ending.stored,
        "seconds": seconds,
    }


def missed(rows: Sequence[Row], figures: dict[str, float]) -> list[str]:
    """Figures that are over their goals; all goals here are upper ones."""
    return [name for name, _, goal, _ in rows if goal is not None and not figures[name] <= goal]


def words_of(engine: str, model: Path, folder: Path) -> list[str]:
    """The server's command line; ``folder`` has the adapters, and the server's copies."""
    words = ["-m", "sampler_cli.main", "serve", "--engine", engine, f"--model={model}"]
    words += ["--port", "0", "--manage-port", "0", "--listen-seconds", "0", "--drain-seconds", "0"]
    words += ["--dtype=float32", f"--max-adapters={KEPT}", "--max-lora-rank=8"]
    words += ["--max-num-seqs=16", "--max-kv-tokens=65536", "--log-level=warning"]
    words += [f"--adapter-root={folder / 'adapters'}", f"--adapter-store={folder / 'store'}"]
    return words + (["--device=cpu", "--threads=1"] if engine == "torch" else [])


async def settled(manage: str, pids: Sequence[int], store: Path, descriptors: int) -> Ending:
    """What is left once nothing runs any more and closed connections have gone, by which there are
    no more than ``descriptors``; after a while, what is left nevertheless."""
    ends = time.monotonic() + _SETTLE_SECONDS
    while True:
        async with httpx.AsyncClient(trust_env=False) as http:
            reply = await http.get(f"{manage}/status")
        status = msgspec.json.decode(reply.content, type=ReplicaStatus)
        running = status.load.running if status.load is not None else 0
        found = Ending(
            len(status.held),
            running + status.kept_streams,
            len(os.listdir(store)),
            footprint(pids),
        )
        is_over = not found.streams and found.footprint.descriptors <= descriptors
        if is_over or time.monotonic() > ends:
            return found
        await asyncio.sleep(0.1)


async def run(
    engine: str, model: Path, adapters: TokenAdapters, steps: int, distinct: int
) -> tuple[Course, Ending, float]:
    """One course at a server of its own, what was left, and how many seconds it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("adapters", "store"):
            (folder / part).mkdir()
        with Program(words_of(engine, model, folder), {"OMP_NUM_THREADS": "1"}) as server:
            ports = server.hear('{"port"')
            pids = server.pids
            with RemoteSampler(f"http://127.0.0.1:{ports['port']}") as sampler:
                begun = time.perf_counter()
                course = await publish_one_after_another(
                    sampler,
                    adapters,
                    folder / "adapters",
                    steps,
                    distinct=distinct,
                    look=lambda: footprint(pids),
                    look_here=lambda: footprint([os.getpid()]),
                )
                seconds = time.perf_counter() - begun
                manage = f"http://127.0.0.1:{ports['manage_port']}"
                least = min(found.descriptors for _, found in course.server)
                ending = await settled(manage, pids, folder / "store", least)
                return course, ending, seconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument("--adapters", type=int, default=None, help=f"how many ({ADAPTERS})")
    options: argparse.Namespace = parser.parse_args()
    if options.adapters is not None and options.adapters < FEWEST:
        parser.error(f"--adapters: at least {FEWEST}, to tell growth")
    if find_spec(options.engine) is None:
        print(f"{options.engine} is not in this environment: nothing was measured", file=sys.stderr)
        raise SystemExit(0 if options.short else 2)
    from tests.tiny_models import tiny_model

    model = tiny_model("qwen3")
    adapters = TokenAdapters(model)
    steps = options.adapters or (60 if options.short else ADAPTERS)
    first = min(WARM_STEPS, steps // 10)
    found: dict[int, dict[str, float]] = {}
    for distinct in (KEPT, steps):
        course, ending, seconds = asyncio.run(run(options.engine, model, adapters, steps, distinct))
        for told in [*course.wrong, *course.lost][:10]:
            print(told, file=sys.stderr)
        found[distinct] = figures_of(course, ending, first, seconds)
    baseline, figures = found[KEPT], found[steps]
    figures["slope_over_baseline_mib"] = figures["server_slope_mib"] - baseline["server_slope_mib"]
    # In a short run the slope is that of caches that fill.
    is_long = steps >= 2 * WARM_STEPS
    rows = [row for row in ROWS if is_long or row[0] != "slope_over_baseline_mib"]
    publish(
        f"adapter_churn_{options.engine}",
        rows,
        figures,
        baseline,
        {
            name: figures[name] / baseline[name]
            for name in ("publish_p50_ms", "publish_p99_ms", "sequence_p50_ms", "sequence_p99_ms")
        },
        as_json=options.json,
    )
    same = [row for row in rows if row[0] in baseline]
    failed = [*missed(rows, figures), *(f"baseline: {name}" for name in missed(same, baseline))]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
