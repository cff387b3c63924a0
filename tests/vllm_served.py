"""A server of the tiny model with vLLM, and the processes below it."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.servers import Server
from tests.tiny_models import tiny_model
from tests.vllm_harness import IS_CPU

from sampler_api.errors import SamplerClosed
from sampler_client import RemoteSampler
from sampler_server.engines.vllm.processes import descendants

__all__ = ["Served", "ask_in_vain", "wait_for_end"]


def _is_alive(pid: int) -> bool:
    """It runs, or is stopped; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pids: list[int]) -> None:
    """A killed process is gone once the kernel has taken its memory back, a GPU's too."""
    while any(map(_is_alive, pids)):
        threading.Event().wait(0.1)


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def ask_in_vain(sampler: RemoteSampler, prompt: Sequence[int]) -> threading.Thread:
    """A call that waits until its client is closed, as there is no other replica."""

    def ask() -> None:
        with pytest.raises(SamplerClosed):
            sampler.sample({"input_ids": list(prompt)}, {"max_tokens": 4})

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


class Served:
    """A server of the tiny model, with a place for its last word."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.log = folder / "termination-log"
        os.environ["SAMPLER_TERMINATION_LOG"] = str(self.log)
        try:
            self.server = Server(
                f"--model={tiny_model()}",
                "--dtype=float32",
                "--max-kv-tokens=65536",
                "--max-num-seqs=8",
                *([] if IS_CPU else ["--gpu-memory-utilization=0.3", "--enforce-eager"]),
                *options,
                engine="vllm",
            )
            self.server.start()
        finally:
            del os.environ["SAMPLER_TERMINATION_LOG"]

    def worker(self) -> int:
        """The process that computes; on one GPU the engine's core does."""
        return self.processes()[-1]

    def processes(self) -> list[int]:
        process = self.server._process
        assert process is not None
        return [pid for pid in descendants(process.pid) if "VLLM" in _command_of(pid)]
