"""vLLM's processes do not outlive the one that started them, however it ends. Linux only.

vLLM's own do not look after their parent: of a killed server they would keep the memory of the GPU.
"""

import os
import select
import signal
import threading
from contextlib import suppress
from typing import Final

__all__ = ["OWNER", "follow_owner"]

OWNER: Final = "SAMPLER_VLLM_OWNER"
"""Environment variable with the process id of who started vLLM."""


def follow_owner() -> None:
    """In a worker process: watch, in a thread, for the end of the owner, and end with it."""
    owner = os.environ.get(OWNER)
    if owner is None or int(owner) == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(int(owner))
    except (AttributeError, OSError):
        return  # not on this system; or gone, and somebody else has seen to that
    threading.Thread(
        target=_end_with, args=(int(owner), descriptor), name="sampler-owner", daemon=True
    ).start()


def _end_with(owner: int, descriptor: int) -> None:
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    ended.poll()
    parent = os.getppid()
    if parent not in (owner, 1):
        # The engine's core, between the two: it waits for requests that will not come.
        with suppress(ProcessLookupError, PermissionError):
            os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
