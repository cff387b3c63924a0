"""How far vLLM is: its own statistics, which it gives once a step."""

from typing import Any, Final

from vllm.v1.metrics.loggers import StatLoggerBase

from ..base import EngineProgress

__all__ = ["StepCounter", "leave_out_requests"]

_OF_REQUESTS: Final = ("_update_stats_from_output", "_update_stats_from_finished")


def leave_out_requests(processor: Any) -> None:
    """Keep vLLM's ``OutputProcessor`` from the statistics of each request, which nobody here reads.

    It takes them token by token: a quarter of its work on outputs. Steps and load come from the
    scheduler and stay. Where a version has other names for it, or traces requests, nothing changes.
    """
    if getattr(processor, "tracing_enabled", False):
        return
    if all(hasattr(processor, name) for name in _OF_REQUESTS):
        for name in _OF_REQUESTS:
            setattr(processor, name, _nothing)


def _nothing(*_: object) -> None: ...


class StepCounter:
    """Steps and load of an engine; ``progress`` is cheap and may be read from any thread.

    Where vLLM's scheduler is between two of its statistics is not told: prompts in prefill count as
    running.
    """

    def __init__(self) -> None:
        self.kv_tokens = 0
        self._steps = 0
        self._running = 0
        self._waiting = 0
        self._usage = 0.0

    def progress(self, asked: int, held_back: int) -> EngineProgress:
        """``asked``: sequences that vLLM has not ended; ``held_back``: those before it."""
        # Its counters are those of its last step; what came in since is waiting at least.
        running = min(self._running, asked)
        return EngineProgress(
            steps=self._steps,
            running=running,
            waiting=max(0, asked - running) + held_back,
            kv_tokens_used=int(self._usage * self.kv_tokens) if asked else 0,
        )

    def take(self, stats: Any) -> None:
        """The statistics of one step."""
        self._steps += 1
        if stats is not None:
            self._running = stats.num_running_reqs
            self._waiting = stats.num_waiting_reqs
            self._usage = stats.kv_cache_usage

    def logger(self, vllm_config: Any, engine_index: int = 0) -> "_Logger":
        """What vLLM calls to make a logger of its statistics."""
        logger = _Logger(vllm_config, engine_index)
        logger.counter = self
        return logger


class _Logger(StatLoggerBase):  # type: ignore[misc]
    counter: StepCounter

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        self.counter.take(scheduler_stats)

    def log_engine_initialized(self) -> None: ...
