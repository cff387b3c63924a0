"""What a loop of ours logs of its connections."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from sampler_core.loops import new_event_loop


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = new_event_loop()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("is_closed", "error", "is_told"),
    [
        pytest.param(True, RuntimeError("the handler is closed"), False, id="closed by us"),
        pytest.param(False, RuntimeError("the handler is closed"), True, id="still open"),
        pytest.param(True, RuntimeError("a bug"), True, id="another error of a closed connection"),
        pytest.param(True, ValueError("handler is closed"), True, id="an error of another kind"),
    ],
)
def test_an_answer_to_a_closed_connection_is_no_error(
    loop: asyncio.AbstractEventLoop,
    caplog: pytest.LogCaptureFixture,
    is_closed: bool,
    error: Exception,
    is_told: bool,
) -> None:
    ours, theirs = socket.socketpair()
    making = loop.create_connection(asyncio.Protocol, sock=ours)
    with theirs:
        transport, _ = loop.run_until_complete(making)
        if is_closed:
            transport.close()
        loop.call_exception_handler(
            {"message": "Fatal error", "exception": error, "transport": transport}
        )
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
    assert bool(caplog.records) == is_told


def test_an_error_without_a_connection_is_told(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.call_exception_handler({"message": "Task exception was never retrieved"})
    assert caplog.records[0].message == "Task exception was never retrieved"
