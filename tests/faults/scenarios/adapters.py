"""Volumes of adapters that cannot be written to."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file
from tests.e2e_fleet import endpoint_of
from tests.faults.stage import Stage
from tests.faults.volume import CLAIM

from sampler_api.errors import AdapterCapacity
from sampler_client import RemoteSampler, SamplingParams

__all__ = ["full", "small_store"]

_RANK: Final = 4
_SMALL, _LARGE = 64, 1 << 17
"""Sizes of a layer; of the large one an adapter takes 4 MiB."""
_STORE: Final = "adapters-store"
_MODULE: Final = "base_model.model.model.layers.0.self_attn.q_proj"


def small_store(ledgers: Path) -> Mapping[str, Any]:
    """A fleet that reads adapters from a volume that it cannot write to, and has room for copies
    of 1 MiB. ``ledgers`` is on that volume, and has the same path in pods."""
    volume = {
        "name": "shared",
        "mountPath": str(ledgers),
        "persistentVolumeClaim": {"claimName": CLAIM},
    }
    store = {"name": _STORE, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    return {
        "lora": {"maxAdapters": 4, "volumes": [volume]},
        "podTemplateOverrides": {"spec": {"volumes": [store]}},
    }


def full(stage: Stage) -> str:
    """An adapter that fits is published and sampled from, one that does not is refused."""
    folder = stage.ledgers / f"adapters-of-{stage.name}"
    small, large = _adapter(folder / "small", _SMALL), _adapter(folder / "large", _LARGE)
    [mount] = [
        each
        for each in stage.pods.ready[0]["spec"]["containers"][0]["volumeMounts"]
        if each["mountPath"] == str(stage.ledgers)
    ]
    assert mount["readOnly"], mount
    with RemoteSampler(",".join(map(endpoint_of, stage.pods.ready))) as sampler:
        stage.strike()
        told = ""
        try:
            sampler.add_adapter_to_model("large", str(large))
        except AdapterCapacity as error:
            told = error.message
        assert told, "it was taken in"
        # What was written of the large one is in nobody's way.
        sampler.add_adapter_to_model("small", str(small))
        params = SamplingParams(max_tokens=40, seed=1)
        [sequence] = sampler.sample({"input_ids": [1, 2, 3]}, params, "small").sequences
        assert sequence.revision is not None
        assert sequence.revision.adapter is not None
    shutil.rmtree(folder)
    stage.wait_recovered()
    return f"mount readOnly; AdapterCapacity: {told}; a smaller adapter is served"


def _adapter(folder: Path, size: int) -> Path:
    """LoRA of one layer, of which the sim engine reads nothing."""
    folder.mkdir(parents=True)
    tensors = {
        f"{_MODULE}.lora_A.weight": np.full((_RANK, size), 0.5, np.float32),
        f"{_MODULE}.lora_B.weight": np.full((size, _RANK), 0.5, np.float32),
    }
    weights = folder / "adapter_model.safetensors"
    save_file(tensors, weights)
    # Replicas are of another user.
    weights.chmod(0o644)
    config = {
        "peft_type": "LORA",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
