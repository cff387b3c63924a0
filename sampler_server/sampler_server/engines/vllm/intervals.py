"""How many tokens vLLM gathers before it tells of them. Pure."""

from typing import Final

__all__ = ["ENGINE_INTERVAL", "output_interval"]

ENGINE_INTERVAL: Final = 8
"""For versions that know one interval for the whole engine."""

_LONE, _FEW, _MANY = 4, 32, 64
_SHORT, _LONG, _LONGEST = 4, 16, 32


def output_interval(running: int, has_stops: bool, is_interactive: bool = False) -> int:
    """Tokens per output of a new sequence, with ``running`` others in the engine.

    An output costs the front end tens of microseconds whatever it holds. A lone sequence is told of
    at once, because somebody may read along; many are told of in pieces, the longest as long as
    those in which sessions send them on. What is made behind a stop string before we see it is
    thrown away, and somebody who reads along waits for it, so such pieces stay short.
    """
    if running < _LONE:
        return 1
    if has_stops or is_interactive or running < _FEW:
        return _SHORT
    return _LONG if running < _MANY else _LONGEST
