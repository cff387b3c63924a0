"""How long a server with the engine ``vllm`` takes until it is ready, and the memory it holds then.

SmolLM2-135M-Instruct in float32 on a CPU (``demo/smollm2.py`` makes it once; ``--model`` names
another directory). From the start of ``sampler serve`` to the first 200 of ``/readyz``, and to the
end of a first call of 16 tokens; warm: one start before those that count has brought the files into
memory. Memory is that of the server and all processes below it: ``pss`` has what they share once,
``rss`` once for each.

Baseline: a process with nothing of ours in it that starts ``AsyncLLM`` with the same arguments
(``baselines/async_llm.py``), from its start to an engine that takes requests. In turns with ours.
There vLLM starts a process for its engine and another one for its only rank.

Ends with 1 when the median start takes three times the goal. Needs vLLM:
`.venv-vllm/bin/python bench/vllm_start.py`.
"""

import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.program import ROOT, Program
from bench.report import Row, arguments, publish
from bench.vllm_path import vllm_package

from sampler_client import RemoteSampler

GOAL_SECONDS: Final = 40.0
FAILS_AT: Final = 3
"""Times the goal. A machine that does other things as well is slow, and not wrong."""
ROUNDS: Final = 3
KV_TOKENS: Final = 16_384
BYTES_PER_TOKEN: Final = 2 * 4 * 30 * 3 * 64
"""Keys and values of SmolLM2-135M in float32: 30 layers, 3 heads of 64."""
_POLL_SECONDS: Final = 0.1

ROWS: Final[list[Row]] = [
    ("ready_s", "s until ready, median", GOAL_SECONDS, "<="),
    ("ready_s_highest", "s until ready, slowest", None, ""),
    ("first_call_s", "s of a first call of 16 tokens", None, ""),
    ("pss_mib", "MiB of all processes, shared pages once", None, ""),
    ("rss_mib", "MiB of all processes, shared pages each time", None, ""),
    ("processes", "processes", None, ""),
]


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds until it took requests, and what its processes held then."""

    ready_s: float
    pss_mib: float
    rss_mib: float
    processes: int
    first_call_s: float = 0.0


def ours(model: Path) -> Start:
    """A server."""
    words = ["-m", "sampler_cli.main", "serve", "--engine", "vllm", f"--model={model}"]
    words += ["--port=0", "--manage-port=0", "--listen-seconds=0", "--drain-seconds=0"]
    words += ["--log-level=warning", "--dtype=float32", "--max-adapters=0", "--max-num-seqs=32"]
    words += [f"--max-kv-tokens={KV_TOKENS}", "--max-model-len=2048"]
    begun = time.monotonic()
    with Program(words, {}) as server:
        ports = server.hear('{"port"')
        _wait(lambda: _is_ready(ports["manage_port"]))
        ready = time.monotonic()
        found = _memory(server.pids)
        with RemoteSampler(f"http://127.0.0.1:{ports['port']}") as sampler:
            asked = {"max_tokens": 16, "temperature": 0, "ignore_eos": True}
            (response,) = sampler.sample({"input_ids": list(range(300, 332))}, asked)
        if len(response.sequences[0].tokens) != 16:
            raise SystemExit("the server gave no 16 tokens")
        return Start(ready - begun, *found, time.monotonic() - ready)


def theirs(model: Path) -> Start:
    """``AsyncLLM`` alone."""
    settings: dict[str, Any] = {
        "model": str(model),
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": 1024,
        "max_num_seqs": 32,
        "max_model_len": 2048,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": KV_TOKENS * BYTES_PER_TOKEN,
        "disable_log_stats": True,
    }
    environment = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "TORCHDYNAMO_DISABLE": "1",
    }
    begun = time.monotonic()
    with Program([str(ROOT / "bench" / "baselines" / "async_llm.py")], {}) as program:
        if not program.hear("@")["is_cpu"]:
            raise SystemExit("this is about starts without a GPU")
        program.say(environment=environment, arguments=settings, is_frozen=False)
        program.hear("@")
        found = Start(time.monotonic() - begun, *_memory(program.pids))
        # Killed, it would leave vLLM's processes behind.
        program.last_word("@")
        return found


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(_POLL_SECONDS)


def _memory(pids: list[int]) -> tuple[float, float, int]:
    """MiB of processes: shared pages once, and each time; how many they are."""
    kib = {"Pss": 0, "Rss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in kib:
                kib[name] += int(rest.split()[0])
    return kib["Pss"] / 1024, kib["Rss"] / 1024, len(pids)


def _figures(starts: list[Start]) -> dict[str, float]:
    middle = {
        name: statistics.median(getattr(start, name) for start in starts)
        for name in ("ready_s", "pss_mib", "rss_mib", "processes", "first_call_s")
    }
    return {**middle, "ready_s_highest": max(start.ready_s for start in starts)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="directory of another model")
    options = parser.parse_args()
    if find_spec("vllm") is None:
        print("vLLM is not in this environment: nothing was measured", file=sys.stderr)
        raise SystemExit(0 if options.short else 2)
    from demo.smollm2 import ensure_model

    model = options.model or ensure_model(lambda text: print(text, file=sys.stderr))
    ours(model)
    pairs = [(theirs(model), ours(model)) for _ in range(1 if options.short else ROUNDS)]
    figures = _figures([mine for _, mine in pairs])
    baseline = _figures([other for other, _ in pairs])
    del baseline["first_call_s"]
    publish(
        "vllm_start",
        ROWS,
        figures,
        baseline,
        {"ready": figures["ready_s"] / baseline["ready_s"]},
        as_json=options.json,
        packages=("sampler-operator", vllm_package(), "torch"),
    )
    if figures["ready_s"] > FAILS_AT * GOAL_SECONDS:
        raise SystemExit(f"a start took more than {FAILS_AT * GOAL_SECONDS:.0f} s")


if __name__ == "__main__":
    main()
