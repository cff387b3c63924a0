"""Responses as they finish: for asynchronous RL, where a batch's stragglers must not hold back the
rest."""

import asyncio
import queue
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from sampler_api.errors import SamplerError
from sampler_api.results import Responses, SampleResponse

from .calls import LoopNotifier, errors_of, failed_response, raise_first, respond
from .groups import Backend, Group
from .inputs import normalise_inputs

__all__ = ["AsyncSampleStream", "SampleStream"]

Indexed = tuple[int, SampleResponse]
MakeGroup = Callable[[int, dict[str, Any], Any, Callable[[Group], None]], tuple[Group, Any]]


class _Window:
    """What both streams share: the groups in flight, and responses from finished ones."""

    def __init__(self, backend: Backend, make: MakeGroup, options: Any, on_error: str) -> None:
        self.backend = backend
        self.make = make
        self.options = options
        self.on_error = on_error
        self.pending: dict[int, tuple[Group, Any]] = {}
        self.next_index = 0

    def start(self, value: Any, on_done: Callable[[Group], None]) -> Group | Indexed:
        """Submit one input; a refused one is a response at once."""
        index = self.next_index
        self.next_index += 1
        try:
            (feature,) = normalise_inputs(value)
            group, view = self.make(index, feature, self.options, on_done)
        except SamplerError as error:
            response = failed_response(error, self.options.num_samples)
            self._raise({index: error}, response)
            return index, response
        self.pending[index] = group, view
        return group

    def response(self, group: Group) -> Indexed:
        """The response of a finished group; raises its error when the stream says so."""
        _, view = self.pending.pop(group.index)
        response = respond(group, view, self.options.revision)
        self._raise(errors_of([group]), response)
        return group.index, response

    def _raise(self, errors: dict[int, SamplerError], response: SampleResponse) -> None:
        if self.on_error == "raise":
            raise_first(errors, Responses([response]))

    def cancel(self) -> None:
        """End what is in flight."""
        self.backend.cancel([group for group, _ in self.pending.values()])


class SampleStream(Iterator[Indexed]):
    """Iterator of ``(index, SampleResponse)`` in the order of finishing.

    ``inputs`` may be any iterable; it is pulled in the consumer's thread, at most ``max_pending``
    inputs ahead of what has been yielded, so that results that nobody takes stop the pulling.
    Leaving ``with``, ``close()`` and garbage collection cancel what is unfinished.
    """

    def __init__(
        self,
        backend: Backend,
        make: MakeGroup,
        inputs: Any,
        options: Any,
        max_pending: int,
        on_error: str,
    ) -> None:
        self._window = _Window(backend, make, options, on_error)
        self._inputs = iter([inputs] if isinstance(inputs, dict) else inputs)
        self._max_pending = max_pending
        self._finished: queue.SimpleQueue[Group] = queue.SimpleQueue()
        self._refused: list[Indexed] = []
        self._is_exhausted = False
        self._is_closed = False

    def _pump(self) -> None:
        window = self._window
        groups: list[Group] = []
        while (
            not self._is_exhausted and len(window.pending) + len(self._refused) < self._max_pending
        ):
            try:
                value = next(self._inputs)
            except StopIteration:
                self._is_exhausted = True
                break
            started = window.start(value, self._finished.put)
            if isinstance(started, Group):
                groups.append(started)
            else:
                self._refused.append(started)
        if groups:
            window.backend.submit(groups)

    def __next__(self) -> Indexed:
        if self._is_closed:
            raise StopIteration
        try:
            self._pump()
            if self._refused:
                return self._refused.pop(0)
            if not self._window.pending:
                self._is_closed = True
                raise StopIteration
            return self._window.response(self._finished.get())
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise

    def cancel(self, *, partial: bool = True) -> list[Indexed]:
        """End the stream now; with ``partial`` the unfinished come back with
        ``stop_reason="abort"``."""
        self._is_closed = True
        window = self._window
        window.cancel()
        if not partial:
            return []
        left: list[Indexed] = []
        while window.pending:
            left.append(window.response(self._finished.get()))
        return left

    def close(self) -> None:
        """Cancel what is unfinished."""
        if not self._is_closed:
            self._is_closed = True
            self._window.cancel()

    def __enter__(self) -> "SampleStream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncSampleStream(AsyncIterator[Indexed]):
    """:class:`SampleStream` for an event loop; a feeder task pulls ``inputs``, which may be an
    async iterator."""

    def __init__(
        self,
        backend: Backend,
        make: MakeGroup,
        inputs: Any,
        options: Callable[[], Any],
        max_pending: int,
        on_error: str,
    ) -> None:
        self._backend = backend
        self._make = make
        self._inputs = [inputs] if isinstance(inputs, dict) else inputs
        self._options = options
        self._on_error = on_error
        self._max_pending = max_pending
        self._window: _Window | None = None
        self._finished: list[Group] = []
        self._refused: list[Indexed] = []
        self._changed = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._is_closed = False

    async def _start(self) -> _Window:
        loop = asyncio.get_running_loop()
        options = await asyncio.to_thread(self._options)
        self._window = _Window(self._backend, self._make, options, self._on_error)
        self._feeder = loop.create_task(self._feed(self._window))
        return self._window

    def _on_done(
        self, notifier: LoopNotifier, loop: asyncio.AbstractEventLoop
    ) -> Callable[[Group], None]:
        def done(group: Group) -> None:
            self._finished.append(group)
            future = loop.create_future()
            future.add_done_callback(lambda _: self._changed.set())
            notifier.resolve(future)

        return done

    async def _feed(self, window: _Window) -> None:
        loop = asyncio.get_running_loop()
        on_done = self._on_done(LoopNotifier.of(loop), loop)
        async for value in _aiter(self._inputs):
            while len(window.pending) >= self._max_pending:
                self._changed.clear()
                await self._changed.wait()
            started = window.start(value, on_done)
            if isinstance(started, Group):
                window.backend.submit([started])
            else:
                self._refused.append(started)
                self._changed.set()

    async def __anext__(self) -> Indexed:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            window = self._window or await self._start()
            assert self._feeder is not None
            while True:
                if self._refused:
                    return self._refused.pop(0)
                if self._finished:
                    # A free place in the window lets the feeder go on.
                    result = window.response(self._finished.pop(0))
                    self._changed.set()
                    return result
                if self._feeder.done():
                    self._feeder.result()
                    if not window.pending:
                        self._is_closed = True
                        raise StopAsyncIteration
                self._changed.clear()
                waiter = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait(
                    {waiter} if self._feeder.done() else {waiter, self._feeder},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiter.cancel()
        except StopAsyncIteration:
            raise
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Cancel what is unfinished."""
        self._is_closed = True
        if self._feeder is not None:
            self._feeder.cancel()
        if self._window is not None:
            self._window.cancel()

    async def __aenter__(self) -> "AsyncSampleStream":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


async def _aiter(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value
            # A plain iterable must not hold the loop for as long as it lasts.
            await asyncio.sleep(0)
