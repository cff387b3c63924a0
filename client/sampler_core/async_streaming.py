"""Responses as they finish, for an event loop: a feeder task pulls the inputs."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from .calls import LoopNotifier
from .groups import Backend, Group
from .inputs import is_encoded
from .window import Indexed, MakeGroup, Window, checked_pending, several

__all__ = ["AsyncSampleStream"]


class _Feed:
    """What an asynchronous stream and its feeder task share.

    The task must not hold the stream: one that nobody has any more is to end.
    """

    def __init__(
        self, window: Window, inputs: Any, max_pending: int, load_template: Callable[[], Any]
    ) -> None:
        self.window = window
        self._load_template = load_template
        self._has_template = False
        self.finished: list[Group] = []
        self.refused: list[Indexed] = []
        self.changed = asyncio.Event()
        self._inputs = inputs
        self._max_pending = max_pending

    async def run(self) -> None:
        """Pull the inputs, as far ahead as there is room."""
        window = self.window
        on_done = self._on_done(asyncio.get_running_loop())
        try:
            async for value in _aiter(self._inputs):
                if not (self._has_template or (isinstance(value, Mapping) and is_encoded(value))):
                    await asyncio.to_thread(self._load_template)
                    self._has_template = True
                started = window.start(value, on_done)
                if isinstance(started, Group):
                    window.backend.submit([started])
                else:
                    self.refused.append(started)
                    self.changed.set()
                while len(window.pending) + len(self.refused) >= self._max_pending:
                    await self.wait()
        except asyncio.CancelledError:
            # What it submitted until it heard of the end.
            window.cancel()
            raise
        finally:
            self.changed.set()

    def _on_done(self, loop: asyncio.AbstractEventLoop) -> Callable[[Group], None]:
        notifier = LoopNotifier.of(loop)

        def done(group: Group) -> None:
            self.finished.append(group)
            future = loop.create_future()
            future.add_done_callback(lambda _: self.changed.set())
            notifier.resolve(future)

        return done

    async def wait(self) -> None:
        """Until something has changed after this call."""
        self.changed.clear()
        await self.changed.wait()

    def take(self) -> Indexed | None:
        """What can be yielded now; the place in the window that it leaves lets the feeder go on.

        Raises the error of a finished group when the stream says so.
        """
        if self.refused:
            self.changed.set()
            return self.refused.pop(0)
        if self.finished:
            self.changed.set()
            return self.window.response(self.finished.pop(0))
        return None


class AsyncSampleStream(AsyncIterator[Indexed]):
    """``SampleStream`` for an event loop; a feeder task pulls ``inputs``, which may be an
    async iterator."""

    def __init__(
        self,
        backend: Backend,
        make: MakeGroup,
        inputs: Any,
        options: Callable[[], Any],
        max_pending: int,
        on_error: str,
        load_template: Callable[[], Any],
    ) -> None:
        self._is_closed = False
        self._load_template = load_template
        self._feed: _Feed | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._backend = backend
        self._make = make
        self._options = options
        self._on_error = on_error
        self._max_pending = checked_pending(max_pending)
        self._inputs = several(inputs, (Iterable, AsyncIterable))

    async def _start(self) -> _Feed:
        options = await asyncio.to_thread(self._options)
        if self._is_closed:
            raise StopAsyncIteration
        window = Window(self._backend, self._make, options, self._on_error)
        self._feed = _Feed(window, self._inputs, self._max_pending, self._load_template)
        self._feeder = asyncio.get_running_loop().create_task(self._feed.run())
        return self._feed

    async def __anext__(self) -> Indexed:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            feed = self._feed or await self._start()
            assert self._feeder is not None
            while not self._is_closed:
                found = feed.take()
                if found is not None:
                    return found
                if self._feeder.done():
                    self._feeder.result()
                    if not feed.window.pending:
                        self._is_closed = True
                        raise StopAsyncIteration
                await feed.wait()
            raise StopAsyncIteration
        except StopAsyncIteration:
            raise
        except BaseException:
            await self.aclose()
            raise

    async def cancel(self, *, partial: bool = True) -> list[Indexed]:
        """End the stream now; with ``partial`` everything that was not yielded comes back, the
        unfinished with ``stop_reason="abort"``.

        An input that failed comes back with its error, also where the stream would raise it.
        """
        feed, feeder = self._feed, self._feeder
        self._close()
        if feed is None or feeder is None:
            return []
        # What it has submitted by its end comes back too.
        await asyncio.gather(feeder, return_exceptions=True)
        if not partial:
            return []
        left, feed.refused = feed.refused, []
        while feed.window.pending:
            while feed.finished:
                left.append(feed.window.whatever(feed.finished.pop(0)))
            if feed.window.pending:
                await feed.wait()
        return left

    async def aclose(self) -> None:
        """Cancel what is unfinished."""
        self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._feed is None or self._feeder is None:
            return
        loop = self._feeder.get_loop()
        # Garbage is collected in any thread, and after the loop's end, which ends its tasks.
        if asyncio._get_running_loop() is loop:
            self._feeder.cancel()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._feeder.cancel)
        self._feed.window.cancel()

    async def __aenter__(self) -> "AsyncSampleStream":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._close()


async def _aiter(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value
            # A plain iterable must not hold the loop for as long as it lasts.
            await asyncio.sleep(0)
