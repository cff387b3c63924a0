"""What the demo needs per engine: options of the servers, and an adapter for its model."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ENGINES", "EngineSetup"]

Log = Callable[[str], object]

_SIM_MODULES: Final = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(2))


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """How to serve with an engine: words of the command line, and the adapter's directory."""

    options: tuple[str, ...]
    adapter_dir: Path


def _torch(root: Path, servers: int, log: Log) -> EngineSetup:
    """The real model, its adapter trained here; the servers share the processors."""
    from .adapter import train_adapter
    from .smollm2 import ensure_model

    model = ensure_model(log)
    adapter = train_adapter(model, root, log)
    threads = max(1, (os.cpu_count() or 1) // servers)
    # Few slots, so that the kill meets sequences in every state: finished, running, waiting.
    slots = ("--max-num-seqs", "8", "--max-model-len", "1024")
    options = ("--engine", "torch", "--model", str(model), "--threads", str(threads), *slots)
    return EngineSetup(options, adapter)


def _sim(root: Path, servers: int, log: Log) -> EngineSetup:
    """No model: tokens from a hash, at the pace of a slow engine. The adapter is noise."""
    import json

    import numpy as np
    from safetensors.numpy import save_file

    log("adapter: random numbers, as the sim engine has no weights to train")
    directory = root / "noise"
    directory.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for module in _SIM_MODULES:
        for letter, shape in (("A", (4, 16)), ("B", (16, 4))):
            name = f"base_model.model.{module}.lora_{letter}.weight"
            tensors[name] = rng.normal(size=shape).astype(np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    pace = ("--sim-decode-rate", "50", "--sim-eos-rate", "0.02", "--sim-jitter", "0.2")
    return EngineSetup(("--engine", "sim", "--max-num-seqs", "8", *pace), directory)


ENGINES: Final[dict[str, Callable[[Path, int, Log], EngineSetup]]] = {"torch": _torch, "sim": _sim}
"""Setup by engine name: gets the adapter root, the number of servers, and where to log."""
