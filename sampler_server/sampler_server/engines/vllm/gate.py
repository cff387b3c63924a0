"""How many adapters may be in flight at once: those beyond wait in their order. Pure."""

from collections import Counter, deque
from collections.abc import Callable

__all__ = ["AdapterGate"]


class AdapterGate:
    """At most ``limit`` different adapters in flight (``None``: any number).

    vLLM counts the slot of the zero adapter among those that a step may use, and would push an
    adapter of the step out for another one of it. Whoever uses an adapter waits behind those that
    wait already, so that a busy adapter keeps none out.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._flights: Counter[str] = Counter()
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()

    def flights(self, adapter: str) -> int:
        """Sequences of an adapter that are let in and have not left."""
        return self._flights[adapter]

    @property
    def waiting(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    def enter(self, adapter: str, begin: Callable[[], None]) -> None:
        """Call ``begin``, now or when there is room."""
        self._waiting.append((adapter, begin))
        self._let_in()

    def withdraw(self, begin: Callable[[], None]) -> bool:
        """Take back what still waits; False when it has begun."""
        for entry in self._waiting:
            if entry[1] == begin:
                self._waiting.remove(entry)
                self._let_in()
                return True
        return False

    def leave(self, adapter: str) -> None:
        """A sequence that had begun has ended."""
        self._flights[adapter] -= 1
        if not self._flights[adapter]:
            del self._flights[adapter]
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            adapter, begin = self._waiting[0]
            if (
                self._limit is not None
                and adapter not in self._flights
                and len(self._flights) >= self._limit
            ):
                return
            self._waiting.popleft()
            self._flights[adapter] += 1
            begin()
