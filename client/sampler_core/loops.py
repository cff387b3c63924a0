"""The event loop of our processes and threads."""

import asyncio
from typing import Any

__all__ = ["new_event_loop"]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's; asyncio's where there is none."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    loop.set_exception_handler(_report)
    return loop


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop logs, but for one error that is none: when TLS data arrives on a connection
    that this side has just closed, uvloop wants to answer (MagicStack/uvloop issues 506, 685)."""
    transport, error = context.get("transport"), context.get("exception")
    # uvloop's transports are not asyncio's.
    is_closed = transport is not None and transport.is_closing()
    if not (is_closed and isinstance(error, RuntimeError) and "handler is closed" in str(error)):
        loop.default_exception_handler(context)
