"""What a training job does with an adapter: write it to a volume, publish it, sample with it.

Runs in a pod that has our client and no torch: ``adapter_job.py FLEET DIRECTORY``. The adapter fits
SmolLM2-135M; its numbers are random. Prints a line of JSON: what the base and the adapter said.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from sampler_client import RemoteSampler

LAYERS: Final = 30
WIDTH: Final = 576
RANK: Final = 4
CONVERSATION: Final = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
PARAMS: Final[dict[str, Any]] = {"temperature": 0.0, "max_tokens": 12, "logprobs": 1}
NAME: Final = "policy"


def write_adapter(directory: Path) -> None:
    """As PEFT would."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
        tensors[f"{name}A.weight"] = random.normal(0, 0.1, (RANK, WIDTH)).astype(np.float32)
        tensors[f"{name}B.weight"] = random.normal(0, 0.1, (WIDTH, RANK)).astype(np.float32)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "SmolLM2-135M-Instruct",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))


def said(sampler: Any, adapter: str) -> dict[str, Any]:
    """What any sampler answers with an adapter; ``adapter`` is empty for the base."""
    [response] = sampler.sample(CONVERSATION, PARAMS, adapter_name=adapter)
    [sequence] = response.sequences
    return {
        "text": sequence.decoded,
        "tokens": list(sequence.tokens),
        "logprobs": [position[0][1] for position in sequence.logprobs],
        "revision": [sequence.revision.base, sequence.revision.adapter],
    }


def main(fleet: str, directory: str) -> None:
    """See the module."""
    write_adapter(Path(directory))
    with RemoteSampler(fleet) as sampler:
        sampler.add_adapter_to_model(NAME, directory)
        print(json.dumps({name: said(sampler, name) for name in ("", NAME)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
