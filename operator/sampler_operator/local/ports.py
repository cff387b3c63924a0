"""Ports of the loopback address for pods, which would each have an address of their own."""

import socket
from collections.abc import Iterable

from ..errors import Unavailable
from .command import HOST

__all__ = ["Ports", "port_map"]

_TRIES = 200


class Ports:
    """Free ports in blocks; none is given to two pods."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def take(self, count: int) -> int:
        """The first of ``count`` ports in a row. Raises Unavailable."""
        for _ in range(_TRIES):
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                first = int(probe.getsockname()[1])
            block = range(first, first + count)
            if not self._given.intersection(block) and are_free(block):
                self._given.update(block)
                return first
        raise Unavailable(f"no {count} ports in a row are free on {HOST}")

    def give_back(self, ports: Iterable[int]) -> None:
        """They may be given again."""
        self._given.difference_update(ports)


def are_free(ports: Iterable[int]) -> bool:
    """Whether a server could listen there now."""
    for port in ports:
        with socket.socket() as probe:
            # As servers do: what is left of former connections is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                return False
    return True


def port_map(numbers: Iterable[int], ports: Ports) -> dict[int, int]:
    """A port of this machine for each port of a container.

    Numbers in a row stay in a row. With several engines a server counts up from its management port
    too, to ports that no manifest names: every row has room for the longest one and one more.
    """
    rows: list[list[int]] = []
    for number in sorted(set(numbers)):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    longest = max(map(len, rows), default=0)
    length = longest + 1 if longest > 1 else longest
    found = {}
    for row in rows:
        first = ports.take(length)
        found.update({row[0] + index: first + index for index in range(length)})
    return found
