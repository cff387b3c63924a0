"""What the demo needs per engine: the fleet's file, options of `sampler up`, and an adapter."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["ENGINES", "EngineSetup"]

Log = Callable[[str], object]

_EXAMPLE: Final = Path(__file__).parents[1] / "manifests" / "examples" / "local-smollm2.yaml"
_SIM_MODULES: Final = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(2))


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """How to serve with an engine: a SamplerDeployment, words for the command, and the adapter's
    directory."""

    file: Path
    options: tuple[str, ...]
    adapter_dir: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What is in the file."""
        found: dict[str, Any] = yaml.safe_load(self.file.read_text())
        return found


def _torch(root: Path, log: Log) -> EngineSetup:
    """The real model, in the example as users get it, and its adapter, trained here."""
    from .adapter import train_adapter
    from .smollm2 import ensure_model

    model = ensure_model(log)
    adapter = train_adapter(model, root, log)
    # It has few slots, so that the kill meets sequences in every state: finished, running, waiting.
    return EngineSetup(_EXAMPLE, ("--model-path", str(model)), adapter)


def _sim(root: Path, log: Log) -> EngineSetup:
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
    manifest = yaml.safe_load(_EXAMPLE.read_text())
    pace = {"decodeRate": 50, "eosRate": 0.02, "jitter": 0.2}
    manifest["spec"] |= {
        "model": {"uri": "sim://smollm2"},
        "engine": {"sim": {"maxNumSeqs": 8, **pace}},
    }
    file = root.parent / "sampler.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return EngineSetup(file, (), directory)


ENGINES: Final[dict[str, Callable[[Path, Log], EngineSetup]]] = {"torch": _torch, "sim": _sim}
"""Setup by engine name: gets the adapter root, and where to log."""
