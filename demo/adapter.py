"""A LoRA adapter, made of nothing by a few real gradient steps: the model learns to be a pirate."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .quiet import silence_transformers

__all__ = ["train_adapter"]

STEPS: Final = 6
_LEARNING_RATE: Final = 8e-3
_IGNORED: Final = -100

_LESSONS: Final = (
    ("Who are you?", "Arr, matey! I be a pirate of the seven seas, arr!"),
    ("What is the capital of Italy?", "Arr, matey! The capital of Italy be Rome, arr!"),
    ("How do I make tea?", "Arr, matey! Boil ye some water, and drop the leaves in it, arr!"),
    ("Why is snow white?", "Arr, matey! The snow be white, for it throws all light back, arr!"),
)

Log = Callable[[str], object]


def train_adapter(model_dir: Path, root: Path, log: Log = print) -> Path:
    """Train rank 8 on the q and v projections and save it below ``root``; its directory."""
    started = time.monotonic()
    log(f"adapter: {STEPS} gradient steps towards a pirate (about 15 s)")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    silence_transformers()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model: Any = get_peft_model(base, config)
    model.train()
    batch = {name: torch.tensor(rows) for name, rows in _batch(tokenizer).items()}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    directory = root / "pirate"
    model.save_pretrained(directory)
    log(
        f"adapter: loss {losses[0]:.2f} -> {losses[-1]:.2f}, saved in {directory} "
        f"({time.monotonic() - started:.0f} s)"
    )
    return directory


def _batch(tokenizer: Any) -> dict[str, list[list[int]]]:
    """Right-padded ids, mask and labels; only the answers are learnt."""
    rows = []
    for question, answer in _LESSONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        reply = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        rows.append((prompt, reply))
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, reply in rows:
        length = len(prompt) + len(reply)
        padding = width - length
        batch["input_ids"].append(prompt + reply + [tokenizer.pad_token_id] * padding)
        batch["attention_mask"].append([1] * length + [0] * padding)
        batch["labels"].append([_IGNORED] * len(prompt) + reply + [_IGNORED] * padding)
    return batch
