"""How many tokens vLLM gathers before it tells of them. Pure."""

from typing import Final

__all__ = ["ENGINE_INTERVAL", "output_interval"]

ENGINE_INTERVAL: Final = 8
"""For versions that know one interval for the whole engine."""

_LONE, _FEW = 4, 32
_SHORT, _LONG = 4, 16


def output_interval(running: int, has_stops: bool) -> int:
    """Tokens per output of a new sequence, with ``running`` others in the engine.

    An output costs the front end tens of microseconds whatever it holds. A lone sequence is told of
    at once, because somebody may read along; many are told of in pieces. What is made behind a stop
    string before we see it is thrown away, so such pieces stay short.
    """
    if running < _LONE:
        return 1
    return _SHORT if has_stops or running < _FEW else _LONG
