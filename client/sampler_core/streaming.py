"""Responses as they finish: for asynchronous RL, where a batch's stragglers must not hold back the
rest."""

import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from .groups import Backend, Group
from .window import Indexed, MakeGroup, Window, checked_pending, several

__all__ = ["SampleStream"]

_PULL_SECONDS: Final = 0.02
"""So long a result waits for inputs that are pulled."""


class SampleStream(Iterator[Indexed]):
    """Iterator of ``(index, SampleResponse)`` in the order of finishing.

    ``inputs`` may be any iterable; it is pulled in the consumer's thread, at most ``max_pending``
    inputs ahead of what has been yielded, so that results that nobody takes stop the pulling. Each
    input is submitted as soon as it is pulled; inputs that follow from earlier answers need
    ``max_pending=1``, or ``asample_stream``.
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
        self._is_closed = False
        self._window = Window(backend, make, options, on_error)
        self._max_pending = checked_pending(max_pending)
        self._finished: queue.SimpleQueue[Group] = queue.SimpleQueue()
        self._refused: list[Indexed] = []
        self._is_exhausted = False
        self._inputs = iter(several(inputs, Iterable))

    def _pump(self) -> None:
        window = self._window
        until = time.monotonic() + _PULL_SECONDS
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
                window.backend.submit([started])
            else:
                self._refused.append(started)
            if time.monotonic() > until and (self._refused or not self._finished.empty()):
                break

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
        """End the stream now; with ``partial`` everything that was not yielded comes back, the
        unfinished with ``stop_reason="abort"``.

        An input that failed comes back with its error, also where the stream would raise it.
        """
        self._is_closed = True
        window = self._window
        window.cancel()
        if not partial:
            return []
        left, self._refused = self._refused, []
        while window.pending:
            left.append(window.whatever(self._finished.get()))
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
