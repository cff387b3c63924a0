"""LoRA adapters of which each makes a model say one token, over and over: what comes out proves
which adapter it came from.

Of the first layer's attention the input is known: the norm of the token's embedding. So a row of A
can be chosen that gives 1 for every token of a small alphabet and for the adapter's own token.
While a prompt is made of that alphabet, every position gets the same addition to its values, which
attention, a mean, passes on as it is; B makes it the direction of the own token's output row, long
enough to drown the rest of the model. Everything else of the adapter is there and adds nothing.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

__all__ = ["TokenAdapters"]

RANK: Final = 8
ALPHABET: Final = 16
SPECIAL: Final = 3
LENGTH: Final = 300.0
"""Of the addition to the hidden state, in the model's own units; the rest of it is below ten."""
MARGIN: Final = 0.5
"""Least difference of the own token's logit from that of any other, without the rest."""

_Array = NDArray[Any]


class TokenAdapters:
    """Adapters for a model of the tiny kind: Qwen3 in float32, one key-value head, in one file."""

    def __init__(self, model: Path) -> None:
        self._config = json.loads((model / "config.json").read_text("utf-8"))
        weights = load_file(model / "model.safetensors")
        attention = "model.layers.0.self_attn."
        rows = weights["model.embed_tokens.weight"].astype(np.float64)
        inputs = rows / np.sqrt((rows**2).mean(1, keepdims=True) + self._config["rms_norm_eps"])
        self._inputs = inputs * weights["model.layers.0.input_layernorm.weight"]
        size = self._config["head_dim"]
        out = weights[attention + "o_proj.weight"].astype(np.float64)
        # All query heads read the same values.
        self._out = out.reshape(len(out), -1, size).sum(1)
        self._shapes = {
            name.removesuffix(".weight"): array.shape
            for name, array in weights.items()
            if name.endswith("_proj.weight")
        }
        logits = weights["lm_head.weight"] * weights["model.norm.weight"]
        self._values, margins = self._choose(logits.astype(np.float64))
        # What the tokenizer has added at the beginning, and ends texts with, is nobody's token.
        weakest = [int(token) for token in np.argsort(margins, kind="stable") if token >= SPECIAL]
        self.alphabet = weakest[:ALPHABET]
        self.tokens = sorted(t for t in weakest[ALPHABET:] if margins[t] >= MARGIN)

    def _choose(self, logits: _Array) -> tuple[_Array, _Array]:
        """Values [V, head_dim] whose way through the output projection has length 1 and is nearest
        to each token's row of ``logits``, and by how much that token wins there [V]."""
        values = logits @ np.linalg.pinv(self._out).T
        ways = values @ self._out.T
        lengths = np.linalg.norm(ways, axis=1, keepdims=True)
        # After the last norm a hidden state has this length.
        found = ways / lengths * np.sqrt(ways.shape[1]) @ logits.T
        own = found.diagonal().copy()
        np.fill_diagonal(found, -np.inf)
        return values / lengths, own - found.max(1)

    def token(self, number: int) -> int:
        """What adapter ``number`` says. As many that follow one another as there are ``tokens``
        differ in it."""
        return self.tokens[number % len(self.tokens)]

    def write(self, number: int, directory: Path) -> None:
        """Save adapter ``number`` as a trainer would; any two differ in their bytes."""
        token = self.token(number)
        known = self._inputs[[*self.alphabet, token]]
        row = np.linalg.lstsq(known, np.ones(len(known)), rcond=None)[0]
        random = np.random.default_rng(number)
        tensors: dict[str, _Array] = {}
        for name, (rows, columns) in self._shapes.items():
            a = random.normal(0, 0.1, (RANK, columns))
            b = np.zeros((rows, RANK))
            if name == "model.layers.0.self_attn.v_proj":
                a[0] = row
                b[:, 0] = self._values[token] * LENGTH
            prefix = f"base_model.model.{name}.lora_"
            tensors[prefix + "A.weight"] = a.astype(np.float32)
            tensors[prefix + "B.weight"] = b.astype(np.float32)
        directory.mkdir(parents=True)
        save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": RANK,
            "lora_alpha": RANK,
            "target_modules": sorted({name.rpartition(".")[2] for name in self._shapes}),
        }
        (directory / "adapter_config.json").write_text(json.dumps(config))
