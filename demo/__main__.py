"""``python -m demo``: sample from a fleet, kill a replica halfway, and check that nothing is lost.

Exits 0 only when every sequence came back once, whole, and from the weights that were asked for.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sampler_api.errors import SamplerError
from sampler_api.results import SampleResponse
from sampler_api.revisions import Revision
from sampler_client import RemoteSampler

from .engines import ENGINES, EngineMissing
from .fleet import Fleet, FleetError, Replica
from .job import Halves, JobError, Killer, run_job
from .prompts import PROMPTS, conversations
from .report import chosen_samples, sample_table
from .rescoring import largest_difference
from .verdict import Expectation, Sample, has_continued, judge
from .wheel import WheelError

CHILDREN: Final = 2
MAX_TOKENS: Final = 48
_SHOWN: Final = 8
_TOLERANCE: Final = 1e-3
"""Between a delivered logprob and the same one scored again, in float32 and another batch."""
_PARAMS: Final[dict[str, Any]] = {
    "max_tokens": MAX_TOKENS,
    "temperature": 0.6,
    "logprobs": 1,
    "logprobs_mode": "raw",
    "seed": 7,
}


class _Failed(Exception):
    """The run did not keep the promise."""


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="torch")
    engine: str = parser.parse_args().engine
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, soft_wrap=False)
    folder = Path(tempfile.mkdtemp(prefix="sampler-demo-"))
    try:
        line = _run(engine, folder, console)
    except KeyboardInterrupt:
        console.print("demo stopped", style="yellow")
        _tell_logs(folder, console)
        return 130
    except (
        *(_Failed, EngineMissing, JobError, SamplerError, FleetError, WheelError),
        OSError,
    ) as error:
        console.print(f"demo failed: {error}", style="red", markup=False, soft_wrap=True)
        _tell_logs(folder, console)
        return 1
    shutil.rmtree(folder)
    console.print(line, style="bold green")
    return 0


def _tell_logs(folder: Path, console: Console) -> None:
    logs = next(folder.rglob("*.log"), None)
    if logs is not None:
        console.print(f"logs of the replicas are in {logs.parent}", soft_wrap=True)
    else:
        shutil.rmtree(folder)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(engine: str, folder: Path, console: Console) -> str:
    def log(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    root = folder / "adapters"
    root.mkdir()
    setup = ENGINES[engine](root, log)
    manifest = setup.manifest
    name, number = manifest["metadata"]["name"], manifest["spec"]["replicas"]

    started = time.monotonic()
    options = ("--volume", f"adapters={root}", *setup.options)
    log(f"fleet: `sampler up -f {setup.file.name}` starts {number} replicas")
    threads = max(1, (os.cpu_count() or 1) // number)
    with Fleet(setup.file, name, options, folder, threads) as fleet:
        replicas = fleet.replicas
        names = " and ".join(replica.name for replica in replicas)
        log(f"fleet: {names} are ready ({time.monotonic() - started:.0f} s)")
        with RemoteSampler(fleet.target) as sampler:
            return _sample(sampler, replicas, setup.adapter_dir, console)


def _sample(
    sampler: RemoteSampler, replicas: list[Replica], adapter_dir: Path, console: Console
) -> str:
    adapter = adapter_dir.name
    bound = sampler.add_adapter_to_model(adapter, str(adapter_dir))
    numbers = range(len(PROMPTS))
    halves = Halves({"": numbers[0::2], adapter: numbers[1::2]})
    base = _only({replica.status().base for replica in replicas})
    killer = Killer(replicas, after=halves.number // 2)

    started = time.monotonic()
    with _progress(console, halves.number * CHILDREN) as (bar, advance):

        def on_kill() -> None:
            assert killer.victim is not None
            bar.console.print(
                f"kill: SIGKILL to {killer.victim.name} with {killer.running} sequences running",
                style="bold yellow",
            )

        results = run_job(
            sampler, conversations(), halves, _PARAMS, CHILDREN, killer, advance, on_kill
        )
    seconds = time.monotonic() - started
    assert killer.victim is not None
    killed = killer.victim.name

    samples = _samples(results)
    adapter_of = {number: name for name, part in halves.inputs.items() for number in part}
    expected = Expectation(
        revisions={n: Revision(base, bound.digest if adapter_of[n] else None) for n in numbers},
        children=CHILDREN,
        replicas=frozenset(replica.name for replica in replicas),
        killed=killed,
        max_tokens=MAX_TOKENS,
    )
    verdict = judge(samples, expected)
    shown = chosen_samples(samples, killed, halves.inputs[adapter], _SHOWN)
    console.print(sample_table(shown, PROMPTS, adapter))
    tokens = sum(len(sample.sequence.token_ids) for sample in samples)
    console.print(f"{tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s")
    if verdict.problems:
        raise _Failed("\n  ".join(["", *verdict.problems]))

    continued = [sample for sample in samples if has_continued(sample.sequence, killed)]
    prompts = {number: response.prompt_token_ids or [] for number, response in results}
    difference = largest_difference(sampler, continued, prompts, adapter_of)
    console.print(
        f"the {len(continued)} continued sequences scored again: "
        f"logprobs differ by at most {difference:.1e}",
        soft_wrap=True,
    )
    if not difference <= _TOLERANCE:
        raise _Failed(f"logprobs of continued sequences differ by {difference} when scored again")
    return (
        f"demo ok: {verdict.sequences} sequences, {verdict.lost} lost, "
        f"{verdict.duplicated} duplicated, {verdict.continued} continued after a kill"
    )


def _samples(results: list[tuple[int, SampleResponse]]) -> list[Sample]:
    return [
        Sample(number, child, sequence)
        for number, response in results
        for child, sequence in enumerate(response.sequences)
    ]


def _only(digests: set[str]) -> str:
    if len(digests) != 1:
        raise _Failed(f"the replicas hold different base weights: {sorted(digests)}")
    return digests.pop()


@contextlib.contextmanager
def _progress(console: Console, sequences: int) -> Iterator[tuple[Progress, Any]]:
    bar = Progress(
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sequences"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("sampling", total=sequences)
        yield bar, lambda inputs: bar.update(task, completed=inputs * CHILDREN)


if __name__ == "__main__":
    sys.exit(main())
