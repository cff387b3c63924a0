"""Sequences on their way through ``AsyncLLM``; everything here runs on the engine's loop.

Every child is a request of its own (vLLM's ``n`` is 1), so that each can be continued and moved by
itself. What vLLM says in one turn of the loop goes out in one call of the sink.
"""

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from vllm.v1.engine.exceptions import EngineDeadError

from sampler_api.errors import (
    AdapterMissing,
    EngineDead,
    EngineFailed,
    SamplerError,
    Unsupported,
)
from sampler_api.params import SamplingParams

from ..base import (
    Delta,
    EngineInfo,
    EngineProgress,
    EngineRequest,
    PromptScores,
    Sink,
    Weights,
)
from .adapters import VllmAdapters
from .columns import delta_of, scores_of
from .options import VllmOptions
from .parameters import vllm_params
from .processes import descendants, kill_all
from .starting import Started, not_started, start_engine
from .steps import StepCounter
from .weights import replace_weights

__all__ = ["Flow", "start_flow"]

log = logging.getLogger(__name__)

_NO_KEY: Final = 0
"""No sequence's; keys count from 1."""
_LOOK_SECONDS: Final = 0.2
"""How often is looked whether vLLM's processes live; a read of two flags."""
_END_SECONDS: Final = 5.0
"""How long vLLM may take to end by itself."""


async def start_flow(
    options: VllmOptions, scratch: Path, sink: Sink, died: Callable[[str], None]
) -> "Flow":
    """Start vLLM and warm it up. Raises InvalidRequest, ModelInvalid.

    ``died`` is called once, with one line, when vLLM does not run any more.
    """
    counter = StepCounter()
    started = await start_engine(options, scratch, counter)
    flow = Flow(started, scratch, counter, options, sink, died)
    try:
        await flow.prepare()
    except BaseException as error:
        await flow.stop()
        if isinstance(error, Exception):
            raise not_started(options, scratch, error) from error
        raise
    return flow


class Flow:
    """The sequences of one running engine."""

    def __init__(
        self,
        started: Started,
        scratch: Path,
        counter: StepCounter,
        options: VllmOptions,
        sink: Sink,
        died: Callable[[str], None],
    ) -> None:
        self.info: EngineInfo = started.info
        self.processes = started.processes
        self.adapters = VllmAdapters(
            started.engine, options.max_adapters, started.adapter_slots, started.is_cpu
        )
        self._engine = started.engine
        self._scratch = scratch
        self._shapes = started.shapes
        self._counter = counter
        self._sink = sink
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._fresh: dict[int, EngineRequest] = {}
        """Sequences whose task has not begun."""
        self._parked: dict[int, Callable[[], None]] = {}
        """Sequences that wait until their adapter may be in a step."""
        self._out: list[Delta] = []
        self._is_ended = False
        self._is_dead = False
        self._watch = asyncio.create_task(self._watch_health())

    def progress(self) -> EngineProgress:
        """A glance; from any thread."""
        return self._counter.progress(len(self._tasks), len(self._parked))

    async def prepare(self) -> None:
        """Warm up, with and without an adapter."""
        await self.adapters.prepare(self._scratch, self._shapes, self.warm_up)

    async def update_weights(self, weights: Weights) -> None:
        """See ``Engine``; behind the end of everything that was cancelled."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        try:
            async with self.adapters.alone():
                await replace_weights(self._engine, weights)
                self.info = replace(self.info, base_digest=weights.digest)
                await self.adapters.forget_all()
                await self.prepare()
                await self.adapters.hold_again()
        except (Unsupported, EngineFailed):
            raise
        except Exception as error:
            reason = f"vLLM's weights are neither the old ones nor the new ones: {error}"
            self._die(reason)
            raise EngineDead(reason) from error

    async def warm_up(self, lora: Any) -> None:
        """One short request with everything that compiles or allocates at its first use."""
        params = SamplingParams(max_tokens=2, temperature=1.0, logprobs=2, prompt_logprobs=1)
        ids = np.zeros(4, np.int32)
        request = EngineRequest(
            _NO_KEY, ids, ids[:0], params, max_total=2, seed=0, want_prompt_logprobs=True
        )
        async for _ in self._deltas(request, lora):
            pass

    def take(self, requests: list[EngineRequest]) -> None:
        """Begin with sequences."""
        for request in requests:
            digest = request.adapter
            if self._is_ended:
                self._give(Delta(request.key, finish="abort"))
            elif digest is None:
                self._begin(request)
            elif self.adapters.find(digest) is None:
                missing = AdapterMissing(f"adapter {digest} is not loaded", "adapter")
                self._give(Delta(request.key, finish="error", error=missing))
            else:
                self._park(request, digest)

    def cancel(self, keys: list[int]) -> None:
        """End sequences that have not ended."""
        for key in keys:
            task, begin = self._tasks.get(key), self._parked.pop(key, None)
            if begin is not None:
                self.adapters.gate.withdraw(begin)
                self._give(Delta(key, finish="abort"))
            elif task is not None:
                task.cancel()
                fresh = self._fresh.pop(key, None)
                if fresh is not None:
                    # A task that has not begun ends without a word.
                    self._forget(fresh)
                    self._give(Delta(key, finish="abort"))

    async def stop(self) -> None:
        """End everything, vLLM's processes too."""
        self._watch.cancel()
        was_ended, self._is_ended = self._is_ended, True
        tasks = list(self._tasks.values())
        if not was_ended:
            self.cancel([*self._parked, *self._tasks])
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flush()
        # It would take the end of the processes for their death, and log that as an error.
        if self._engine.output_handler is not None:
            self._engine.output_handler.cancel()
        await asyncio.to_thread(self._shut_down)

    # -- one sequence ------------------------------------------------------------------------------

    def _park(self, request: EngineRequest, digest: str) -> None:
        def begin() -> None:
            self._parked.pop(request.key, None)
            self._begin(request)

        self._parked[request.key] = begin
        self.adapters.gate.enter(digest, begin)

    def _begin(self, request: EngineRequest) -> None:
        self._fresh[request.key] = request
        self._tasks[request.key] = self._loop.create_task(self._follow(request))

    async def _follow(self, request: EngineRequest) -> None:
        """From the submission of a sequence to its end."""
        self._fresh.pop(request.key, None)
        last: Delta | None = None
        try:
            last = await self._run(request)
        finally:
            self._forget(request)
            # With a dead engine everybody has been told already.
            if last is not None and not self._is_dead:
                self._give(last)

    def _forget(self, request: EngineRequest) -> None:
        self._tasks.pop(request.key, None)
        if request.adapter is not None:
            self.adapters.left(request.adapter)

    async def _run(self, request: EngineRequest) -> Delta | None:
        """Give all deltas of a sequence but the last; ``None`` when the engine has died."""
        key = request.key
        last: Delta | None = None
        try:
            lora = None
            if request.adapter is not None:
                lora = self.adapters.find(request.adapter)
                if lora is None:
                    raise AdapterMissing(f"adapter {request.adapter} is not loaded", "adapter")
            async for delta in self._deltas(request, lora):
                if delta.finish is None:
                    self._give(delta)
                else:
                    last = delta
            return last or Delta(key, finish="abort")
        except asyncio.CancelledError:
            await self._abort(key)
            return Delta(key, finish="abort")
        except SamplerError as error:
            await self._abort(key)
            return Delta(key, finish="error", error=error)
        except EngineDeadError:
            self._die()
            return None
        except Exception as error:
            if self._engine.errored:
                self._die()
                return None
            log.exception("vLLM failed on a sequence")
            cause = error.__cause__ or error
            failed = EngineFailed(f"vLLM failed: {type(cause).__name__}: {cause}")
            return Delta(key, finish="error", error=failed)

    async def _deltas(self, request: EngineRequest, lora: Any) -> AsyncIterator[Delta]:
        params, left = vllm_params(request, self.info.eos_ids, len(self._tasks) - 1)
        k = request.params.logprobs or 0
        tokens = request.prompt_ids.tolist()
        if len(request.output_ids):
            tokens += request.output_ids.tolist()
        salt = _salt(self.info.base_digest, request.adapter)
        prompt = {"prompt_token_ids": tokens, "cache_salt": salt}
        scores: PromptScores | None = None
        async for output in self._engine.generate(
            prompt, params, str(request.key), lora_request=lora
        ):
            if output.prompt_logprobs:
                scores = scores_of(output.prompt_logprobs, request.params.prompt_logprobs or 0)
            completion = output.outputs[0]
            if left:
                yield delta_of(request.key, completion, k, scores)
                scores = None
            elif completion.finish_reason is not None:
                # vLLM makes one token at least; nobody has asked for it.
                yield Delta(request.key, finish="length", prompt=scores)

    async def _abort(self, key: int) -> None:
        # A submission that was cut short may have reached vLLM.
        try:
            await self._engine.abort(str(key))
        except EngineDeadError:
            self._die()

    # -- outwards ----------------------------------------------------------------------------------

    def _give(self, delta: Delta) -> None:
        if not self._out:
            # Behind everything else that this turn of the loop brings.
            self._loop.call_soon(self._flush)
        self._out.append(delta)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out:
            try:
                self._sink(out)
            except Exception:
                log.exception("the sink of the vLLM engine failed")

    # -- ends --------------------------------------------------------------------------------------

    async def _watch_health(self) -> None:
        """An idle engine tells nobody that it has died."""
        while True:
            if self._engine.errored:
                self._die()
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _die(self, reason: str = "the vLLM engine has died; its log says why") -> None:
        if self._is_ended:
            return
        self._is_ended = self._is_dead = True
        log.error("%s", reason)
        self._died(reason)
        error = EngineDead(reason)
        keys = [*self._tasks, *self._parked, _NO_KEY]
        self._parked.clear()
        self._out += [Delta(key, finish="error", error=error) for key in keys]
        self._flush()
        for task in self._tasks.values():
            task.cancel()
        self._fresh.clear()

    def _shut_down(self) -> None:
        """vLLM's own end; processes that hang, ours."""
        killer = threading.Timer(_END_SECONDS, kill_all, [self.processes])
        killer.start()
        try:
            self._engine.shutdown()
        finally:
            killer.cancel()
        below = set(descendants(os.getpid()))
        kill_all([pid for pid in self.processes if pid in below])
        # What this process does not ask after stays in the table of processes.
        multiprocessing.active_children()


def _salt(base: str, adapter: str | None) -> str:
    """Of the prefix cache: no revision reads what another one has computed."""
    return blake2b(f"{base}\0{adapter or ''}".encode(), digest_size=12).hexdigest()
