"""``sampler serve``: one server process, or several engines side by side.

Only the options live here; ``launch`` turns them into an engine and a server.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["serve"]

_SIM = "Options of --engine sim"
_TORCH = "Options of --engine torch"
_MODELS = "Options of --engine torch and vllm"
_VLLM = "Options of --engine vllm (and all those of vllm serve)"
_LIMITS = "Limits"
_TIMES = "Times"


class EngineName(StrEnum):
    """Engines that this version serves."""

    torch = "torch"
    vllm = "vllm"
    sim = "sim"


class LogprobsMode(StrEnum):
    """Kinds of logprobs."""

    processed = "processed"
    raw = "raw"


class DType(StrEnum):
    """Number formats of weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _sim(name: str, text: str) -> typer.models.OptionInfo:
    variable = "SAMPLER_" + name.removeprefix("--").replace("-", "_").upper()
    option: typer.models.OptionInfo = typer.Option(
        name, help=text, envvar=variable, rich_help_panel=_SIM
    )
    return option


def serve(
    context: typer.Context,
    engine: Annotated[EngineName, typer.Option(help="What generates.")],
    model: Annotated[
        str, typer.Option(help="Directory or hub id of the model; any name for sim.")
    ] = "sim",
    model_name: Annotated[
        str | None, typer.Option(help="Name that clients see.", show_default="the engine's")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address of the data port; '*' = all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Data port; 0 = a free one.")] = 8000,
    manage_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Management port; 0 = a free one.")
    ] = 9000,
    manage_host: Annotated[
        str | None, typer.Option(help="Address of the management port.", show_default="--host")
    ] = None,
    engines: Annotated[
        int, typer.Option(min=1, max=64, help="Processes, on consecutive data ports.")
    ] = 1,
    adapter_root: Annotated[
        list[Path] | None,
        typer.Option(help="Adapters may be read below this directory; repeatable."),
    ] = None,
    adapter_store: Annotated[
        Path | None,
        typer.Option(help="Copies of adapters are kept here.", show_default="a temporary one"),
    ] = None,
    adapter_store_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most that these copies take, of all engines together; those that are held stay.",
            show_default="16 GiB",
        ),
    ] = 16 << 30,
    adapters_config: Annotated[
        Path | None,
        typer.Option(help="Directory with adapters.json, the declared adapters; watched."),
    ] = None,
    model_digest: Annotated[
        str | None, typer.Option(help="sha256:…; a model with another digest is not served.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File of name:role:token lines; without it all may sample.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file of the data port's certificate; watched.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:N, mps.", show_default="best", rich_help_panel=_TORCH),
    ] = None,
    dtype: Annotated[
        DType, typer.Option(help="Number format of the weights.", rich_help_panel=_MODELS)
    ] = DType.auto,
    logprobs_mode: Annotated[
        LogprobsMode,
        typer.Option(help="The one kind of logprobs it gives.", rich_help_panel=_VLLM),
    ] = LogprobsMode.processed,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the model's code.", rich_help_panel=_MODELS),
    ] = False,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="One sequence a step: slow, equal bits whatever else runs.",
            rich_help_panel=_TORCH,
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of the engine, all ranks.", rich_help_panel=_TORCH),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Processes and devices that hold a part of the model each.",
            show_default="1",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sequences that run at once.",
            show_default="the engine's",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_kv_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens that fit at once.",
            show_default="the engine's",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Context limit in tokens.",
            show_default="the model's",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_adapters: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Adapters held at once.",
            show_default="the engine's",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_lora_rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest LoRA rank.",
            show_default="the engine's",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(min=0, help="Plain HTTP requests may run so long on.", rich_help_panel=_TIMES),
    ] = 30.0,
    listen_seconds: Annotated[
        float,
        typer.Option(min=0, help="A drain keeps the ports open so long.", rich_help_panel=_TIMES),
    ] = 5.0,
    orphan_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Sequences outlive a lost session so long.", rich_help_panel=_TIMES
        ),
    ] = 30.0,
    stall_seconds: Annotated[
        float,
        typer.Option(
            min=0.1, help="An engine without a step for so long is dead.", rich_help_panel=_TIMES
        ),
    ] = 10.0,
    sim_prefill_rate: Annotated[
        float, _sim("--sim-prefill-rate", "Prompt tokens per second; 0 = at once.")
    ] = 0.0,
    sim_decode_rate: Annotated[
        float, _sim("--sim-decode-rate", "Tokens per second and sequence; 0 = at once.")
    ] = 0.0,
    sim_per_sequence: Annotated[
        float, _sim("--sim-per-sequence", "Seconds that each running sequence adds to a step.")
    ] = 0.0,
    sim_jitter: Annotated[
        float, _sim("--sim-jitter", "Share by which steps vary, in [0, 1).")
    ] = 0.0,
    sim_slow: Annotated[float, _sim("--sim-slow", "Factor on the time of every step.")] = 1.0,
    sim_eos_rate: Annotated[
        float, _sim("--sim-eos-rate", "Probability that a token is the end of sequence.")
    ] = 0.0,
    sim_ledger: Annotated[
        Path | None, _sim("--sim-ledger", "File to which every token is written first.")
    ] = None,
    sim_fail_rate: Annotated[
        float, _sim("--sim-fail-rate", "Share of the sequences that fail on the way.")
    ] = 0.0,
    sim_fail_token: Annotated[
        int | None, _sim("--sim-fail-token", "Prompts with this token fail.")
    ] = None,
    sim_stall_after: Annotated[
        int | None, _sim("--sim-stall-after", "The engine wedges after so many steps.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    announce: Annotated[bool, typer.Option("--announce", hidden=True)] = False,
    sibling: Annotated[list[int] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a model: sessions of RemoteSampler, /v1/sample, and the OpenAI routes.

    With --port 0 or --manage-port 0 the chosen ports are one JSON line on stdout.
    """
    given: dict[str, Any] = dict(locals())
    given = {name: v.value if isinstance(v, StrEnum) else v for name, v in given.items()}
    # What no option of ours is may be one of vLLM's.
    given["words"] = list(given.pop("context").args)
    from .launch import launch
    from .serve_options import ServeOptions

    raise typer.Exit(launch(ServeOptions(**given)))
