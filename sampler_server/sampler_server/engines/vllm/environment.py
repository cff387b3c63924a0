"""The environment that vLLM's processes begin with; this process gets its own back."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .owner import OWNER

__all__ = ["ERRORS_FILE", "IN_FLOAT32", "ON_CPU", "ErrorsFile", "vllm_environment"]

ERRORS_FILE: Final = "errors.log"
"""In the scratch folder: what processes of the engine said when they could not start."""

_ALWAYS: Final = {
    # Nothing is sent to anybody, and nothing is asked of a hub: the model's files are here.
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # This process has threads: a fork would have their locks and not them.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # The newer runner of models knows no logits processors.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
ON_CPU: Final = {
    # The first request for logprobs would compile C++ for 15 seconds, also in eager mode.
    "TORCHDYNAMO_DISABLE": "1",
}
IN_FLOAT32: Final = {
    # Triton multiplies float32 in TF32, with 10 bits of mantissa, unless it is told otherwise:
    # vLLM's attention for float32 on a GPU, and logprobs with it, would be off by thousandths.
    "TRITON_F32_DEFAULT": "ieee",
}
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ErrorsFile(logging.FileHandler):
    """Writes as long as the file can be made. vLLM's loggers are set once in a process, and outlive
    the folder of the engine that was the first there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that finds no folder any more is on stderr alone."""
        with suppress(OSError):
            super().emit(record)


@contextmanager
def vllm_environment(scratch: Path, more: Mapping[str, str] | None = None) -> Iterator[None]:
    """What vLLM is imported and started with, where nobody has set it otherwise.

    ``scratch``: a directory that goes away with this process; vLLM leaves sockets there.
    """
    # Its constants are of the moment of its import, and this process may want the hub.
    import huggingface_hub.constants  # noqa: F401

    own = {OWNER: str(os.getpid()), "VLLM_RPC_BASE_PATH": str(scratch)}
    wanted = _ALWAYS | own | dict(more or {})
    if "VLLM_LOGGING_CONFIG_PATH" not in os.environ:
        wanted["VLLM_LOGGING_CONFIG_PATH"] = str(_logging_config(scratch))
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _logging_config(scratch: Path) -> Path:
    """vLLM logs to stdout, where a server's ports are announced; here to stderr, and errors to a
    file too."""
    level = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": _FORMAT}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "level": level,
                "stream": "ext://sys.stderr",
            },
            "errors": {
                "class": f"{__name__}.{ErrorsFile.__name__}",
                "delay": True,
                "filename": str(scratch / ERRORS_FILE),
                "formatter": "line",
                "level": "ERROR",
            },
        },
        "loggers": {
            "vllm": {"handlers": ["stderr", "errors"], "level": level, "propagate": False},
        },
    }
    path = scratch / "logging.json"
    path.write_text(json.dumps(config), "utf-8")
    return path
