"""Keeps the data port shut while the replica must not serve what it has loaded."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from sampler_api.errors import BaseMismatch

from .errors import error_response

__all__ = ["BaseGate"]


class BaseGate:
    """Answers every request and session with BaseMismatch while ``problem()`` says why."""

    def __init__(self, app: ASGIApp, problem: Callable[[], str]) -> None:
        self.app = app
        self.problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self.problem()
        if not problem:
            await self.app(scope, receive, send)
            return
        answer = error_response(BaseMismatch(problem))
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)
