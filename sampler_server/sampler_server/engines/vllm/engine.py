"""The vLLM engine: a thread with a loop for ``AsyncLLM``, and the doors through which others talk
to it.

vLLM itself is imported by ``start``, when its environment is ready.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sampler_api.errors import EngineDead

from ...scratch import ScratchFolder
from ..base import EngineInfo, EngineProgress, EngineRequest, Sink, Weights
from .environment import vllm_environment
from .options import VllmOptions
from .processes import kill_all
from .versions import check_version, installed_version

if TYPE_CHECKING:
    from .flow import Flow

__all__ = ["VllmEngine"]

log = logging.getLogger(__name__)

_CLOSED: Final = "the engine is closed"

T = TypeVar("T")


class VllmEngine:
    """Continues sequences in vLLM's processes; see ``Engine`` for the contract."""

    def __init__(self, options: VllmOptions) -> None:
        self._options = options.settled()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._scratch: ScratchFolder | None = None
        self._flow: Flow | None = None
        self._asked: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._end = ""
        """Why it takes no more requests; empty while it does."""

    @property
    def info(self) -> EngineInfo:
        return self._started().info

    def start(self, sink: Sink) -> None:
        """Start vLLM's processes, load the model, warm up.

        Raises Unsupported for a version that is not served, InvalidRequest for a wrong argument,
        ModelInvalid when the model does not load, ModuleNotFoundError without vLLM.
        """
        check_version(installed_version())
        self._scratch = ScratchFolder()
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._thread.start()
        try:
            with vllm_environment(self._scratch.path):
                from .flow import start_flow

                starting = start_flow(self._options, self._scratch.path, sink, self._died)
                self._flow = self._ask(starting)
        except BaseException:
            self.close()
            raise

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Queue sequences; a bad one answers with an error delta."""
        self._post(self._started().take, list(requests))

    def cancel(self, keys: Iterable[int]) -> None:
        """End sequences; what vLLM has gathered of them and not told is lost."""
        try:
            self._post(self._started().cancel, list(keys))
        except EngineDead:
            log.debug("cancelled after the end: everything has ended")

    def load_adapter(self, digest: str, directory: Path) -> None:
        """Load a validated adapter into all of vLLM's workers."""
        self._ask(self._started().adapters.load(digest, directory))

    def unload_adapter(self, digest: str) -> None:
        """Wait for the last sequence of an adapter, then free it."""
        self._ask(self._started().adapters.unload(digest))

    def update_weights(self, weights: Weights) -> None:
        """Have all of vLLM's workers read the weights of a checked directory."""
        self._ask(self._started().update_weights(weights))

    def progress(self) -> EngineProgress:
        return EngineProgress() if self._flow is None else self._flow.progress()

    def close(self) -> None:
        """End vLLM's processes; unfinished sequences get abort deltas. Idempotent."""
        with self._lock:
            self._end = self._end or _CLOSED
        self._let_askers_go()
        thread = self._thread
        if thread is not None and thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
            if thread is not threading.current_thread():
                thread.join()
        if self._scratch is not None:
            self._scratch.close()

    def abandon(self) -> None:
        """Kill vLLM's processes: the one that calls is about to go, and they would stay."""
        if self._flow is not None:
            kill_all(self._flow.processes)

    # -- from other threads ------------------------------------------------------------------------

    def _started(self) -> "Flow":
        if self._flow is None:
            raise EngineDead(self._end or "the engine has not started")
        return self._flow

    def _post(self, call: Callable[..., None], *values: object) -> None:
        with self._lock:
            if self._end:
                raise EngineDead(self._end)
            self._loop.call_soon_threadsafe(call, *values)

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work`` on the loop. Raises EngineDead when the engine ends meanwhile."""
        with self._lock:
            if self._end:
                work.close()
                raise EngineDead(self._end)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._asked.add(future)
        try:
            return future.result()
        except CancelledError:
            raise EngineDead(self._end) from None
        finally:
            self._asked.discard(future)

    def _let_askers_go(self) -> None:
        for future in list(self._asked):
            future.cancel()

    # -- on the loop -------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _died(self, reason: str) -> None:
        with self._lock:
            self._end = self._end or reason
        self._let_askers_go()

    async def _stop(self) -> None:
        if self._flow is not None:
            await self._flow.stop()
        self._loop.stop()
