"""The torch engine: a thread that steps, and the doors through which others talk to it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import torch

from sampler_api.errors import EngineDead

from ..base import Delta, EngineInfo, EngineProgress, EngineRequest, Sink, Weights
from .core import TorchCore
from .options import TorchOptions
from .ranks.lead import Ranks, start_ranks

__all__ = ["TorchEngine"]

_log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.003
"""How long an idle engine waits for companions of a first request: less than any step takes."""
_CLOSED = "the engine is closed"
_GRACE_SECONDS = 10.0
"""How long a step of several ranks may take to end; then a rank that hangs is killed."""
_NO_KEY = 0
"""No sequence's; keys count from 1."""


class TorchEngine:
    """Continues sequences on a transformers model; see ``Engine`` for the contract."""

    def __init__(self, options: TorchOptions) -> None:
        self._options = options
        self._wake = threading.Condition()
        self._commands: deque[Callable[[TorchCore], None]] = deque()
        self._asked: set[Future[None]] = set()
        self._is_closing = False
        self._end = _CLOSED
        """Why it takes no more commands, once ``_is_closing``."""
        self._core: TorchCore | None = None
        self._ranks: Ranks | None = None
        self._sink: Sink | None = None
        self._thread: threading.Thread | None = None
        self._progress = EngineProgress()

    @property
    def model(self) -> Any:
        """The transformers model that steps run on."""
        return self._started().model

    @property
    def info(self) -> EngineInfo:
        return self._started().info

    def start(self, sink: Sink) -> None:
        """Load the model, prove that packed steps are right for it, and begin to step."""
        self._sink = sink
        ranks = self._ranks = start_ranks(self._options, self._lost)
        try:
            options = self._options if ranks is None else ranks.options
            self._core = TorchCore(options, ranks)
        except BaseException:
            if ranks is not None:
                ranks.close()
            raise
        self._thread = threading.Thread(
            target=self._loop, args=(self._core, sink), name="torch-engine", daemon=True
        )
        self._thread.start()
        if ranks is not None and ranks.processes.reason:
            # Lost while nobody could be told.
            self._lost(ranks.processes.reason)

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Queue sequences; a bad one answers with an error delta."""
        wanted = list(requests)

        def take(core: TorchCore) -> None:
            for request in wanted:
                core.take(request)

        self._post(take)

    def cancel(self, keys: Iterable[int]) -> None:
        """End sequences between two steps."""
        wanted = list(keys)

        def cancel(core: TorchCore) -> None:
            for key in wanted:
                core.cancel(key)

        try:
            self._post(cancel)
        except EngineDead:
            _log.debug("cancelled after the end: everything has ended")

    def load_adapter(self, digest: str, directory: Path) -> None:
        """Read on the caller's thread; the engine's thread only takes the result."""
        weights = self._started().read_adapter(directory)
        self._ask(lambda core: core.hold(digest, weights))

    def unload_adapter(self, digest: str) -> None:
        """Free an adapter; refused while a sequence uses it."""
        self._ask(lambda core: core.drop(digest))

    def update_weights(self, weights: Weights) -> None:
        """Load beside what serves, on the caller's thread; the engine's thread only exchanges."""
        new = self._started().read_weights(weights)
        self._ask(lambda core: core.replace_weights(new))

    def progress(self) -> EngineProgress:
        return self._progress

    def close(self) -> None:
        """Stop the thread; unfinished sequences get abort deltas."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._let_askers_go()
        is_another = self._thread is not None and self._thread is not threading.current_thread()
        if self._ranks is not None:
            if self._thread is not None and is_another:
                self._thread.join(_GRACE_SECONDS)
            self._ranks.close()
        if self._thread is not None and is_another:
            # With ranks it may wait on a device for one that has gone, and nothing ends that.
            self._thread.join(None if self._ranks is None else _GRACE_SECONDS)

    def abandon(self) -> None:
        """Kill the other ranks; its thread goes with the process."""
        if self._ranks is not None:
            self._ranks.processes.kill()

    def _started(self) -> TorchCore:
        if self._core is None:
            raise EngineDead("the engine has not started")
        return self._core

    def _post(self, command: Callable[[TorchCore], None]) -> None:
        self._started()
        with self._wake:
            if self._is_closing:
                raise EngineDead(self._end)
            self._commands.append(command)
            self._wake.notify()

    def _ask(self, command: Callable[[TorchCore], None]) -> None:
        """Run a command between two steps and wait for it. Raises EngineDead."""
        done: Future[None] = Future()

        def run(core: TorchCore) -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                command(core)
            except EngineDead as error:
                done.set_exception(error)
                raise
            except Exception as error:
                # The caller's thread raises it.
                done.set_exception(error)
            else:
                done.set_result(None)

        self._asked.add(done)
        try:
            self._post(run)
            done.result()
        except CancelledError:
            raise EngineDead(self._end) from None
        finally:
            self._asked.discard(done)

    def _let_askers_go(self) -> None:
        """A thread that has died, or hangs, answers nobody."""
        for future in list(self._asked):
            future.cancel()

    def _loop(self, core: TorchCore, sink: Sink) -> None:
        with torch.inference_mode():
            try:
                while self._turn(core, sink):
                    pass
            except BaseException as error:
                # A request that fails is answered inside a step. What comes here is the engine's
                # own end, such as a device that has gone; whatever it is, nobody may wait on.
                _log.exception("the torch engine has died")
                why = f"{type(error).__name__}: {error}"
                if isinstance(error, EngineDead):
                    why = error.message
                self._die(core, sink, f"the engine has died: {why}")

    def _lost(self, reason: str) -> None:
        """Another rank has gone, and the engine's thread may wait for it: nobody else may."""
        if self._thread is None:
            return  # ``start`` raises
        with self._wake:
            self._end = f"the engine has died: {reason}"
            self._is_closing = True
            self._wake.notify()
        self._let_askers_go()
        if self._sink is not None:
            error = EngineDead(self._end)
            self._give(self._sink, [Delta(_NO_KEY, finish="error", error=error)])

    def _die(self, core: TorchCore, sink: Sink, reason: str) -> None:
        with self._wake:
            self._end = reason
            self._is_closing = True
        self._progress = EngineProgress(steps=self._progress.steps)
        self._let_askers_go()
        error = EngineDead(reason)
        core.fail_all(error)
        # Also under no key: the core does not know the sequences of a command that failed halfway.
        self._give(sink, [*core.deltas(), Delta(_NO_KEY, finish="error", error=error)])

    def _turn(self, core: TorchCore, sink: Sink) -> bool:
        """Commands, a step, deltas; false once the engine is closed."""
        with self._wake:
            was_idle = not core.has_work
            while not (self._commands or self._is_closing or core.has_work):
                self._wake.wait()
        if was_idle:
            time.sleep(_GATHER_SECONDS)
        with self._wake:
            commands, self._commands = self._commands, deque()
            is_closing = self._is_closing
        for command in commands:
            command(core)
        if is_closing:
            core.close()
        elif core.has_work:
            core.step()
        self._progress = core.progress()
        self._deliver(core, sink)
        return not is_closing

    def _deliver(self, core: TorchCore, sink: Sink) -> None:
        deltas = core.deltas()
        if deltas:
            self._give(sink, deltas)

    @staticmethod
    def _give(sink: Sink, deltas: Sequence[Delta]) -> None:
        try:
            sink(deltas)
        except Exception:
            _log.exception("the sink of the torch engine failed")
