"""What the demo needs per engine: the fleet's file, options of `sampler up`, and an adapter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["ENGINES", "EngineMissing", "EngineSetup"]

Log = Callable[[str], object]

_EXAMPLE: Final = Path(__file__).parents[1] / "manifests" / "examples" / "local-smollm2.yaml"
_SIM_MODULES: Final = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(2))


class EngineMissing(Exception):
    """The engine is not installed here; the text says what to do."""


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


def _vllm(root: Path, log: Log) -> EngineSetup:
    """The same model and adapter with vLLM, on the processor. Raises EngineMissing."""
    if find_spec("vllm") is None:
        raise EngineMissing(
            "vLLM is not installed in this environment: `make demo ENGINE=vllm` makes one with "
            "vLLM for machines without a GPU, .venv-vllm (6 GB)"
        )
    setup = _torch(root, log)
    manifest = setup.manifest
    settings = manifest["spec"]["engine"]["torch"]
    # It has one kind of logprobs: that of scored prompts, with which the demo compares.
    manifest["spec"]["engine"] = {
        "vllm": {**settings, "dtype": "float32"},
        "logprobsMode": "raw",
    }
    return EngineSetup(_written(manifest, root), setup.options, setup.adapter_dir)


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
    return EngineSetup(_written(manifest, root), (), directory)


def _written(manifest: Mapping[str, Any], root: Path) -> Path:
    """The file of a manifest, beside the adapters."""
    file = root.parent / "sampler.yaml"
    file.write_text(yaml.safe_dump(dict(manifest)))
    return file


ENGINES: Final[dict[str, Callable[[Path, Log], EngineSetup]]] = {
    "sim": _sim,
    "torch": _torch,
    "vllm": _vllm,
}
"""Setup by engine name: gets the adapter root, and where to log."""
