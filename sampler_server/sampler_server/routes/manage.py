"""The management port: probes, metrics, status and drain. From the network it can only be read."""

import ipaddress
import os
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from ..auth import Access
from ..errors import install_error_handlers
from ..hub import Hub
from ..metrics import HubCollector, exposition
from ..websocket import Sessions

__all__ = ["create_manage_app"]


def create_manage_app(
    hub: Hub,
    sessions: Sessions,
    access: Access,
    drain: Callable[[str], None],
    is_live: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """The application of the management port; it answers while the engine still loads.

    Ready = the engine has started and the replica does not drain. Live = ``is_live`` (and this
    loop runs, or nobody would answer).
    """
    app = FastAPI(title="sampler management", docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    router = APIRouter()
    collector = HubCollector(hub, sessions)

    @router.get("/livez")
    async def livez() -> Response:
        if not is_live():
            return JSONResponse({"live": False, "reason": "the engine has stalled"}, 503)
        return JSONResponse({"live": True})

    @router.get("/readyz")
    async def readyz() -> Response:
        if hub.is_draining:
            return JSONResponse({"ready": False, "reason": "draining"}, 503)
        if not hub.is_open:
            return JSONResponse({"ready": False, "reason": "the engine is loading"}, 503)
        return JSONResponse({"ready": True})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(collector), media_type=CONTENT_TYPE_LATEST)

    @router.get("/status")
    async def status() -> dict[str, Any]:
        return _status(hub, sessions)

    @router.post("/drain")
    async def post_drain(request: Request) -> Response:
        if not _is_loopback(request):
            access.check(request.headers, "admin")
        drain("asked for by POST /drain")
        return JSONResponse({"draining": True}, 202)

    app.include_router(router)
    return app


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _status(hub: Hub, sessions: Sessions) -> dict[str, Any]:
    if not hub.is_open:
        return {"ready": False, "incarnation": sessions.incarnation}
    return {
        "ready": not hub.is_draining,
        "draining": hub.is_draining,
        "replica": sessions.replica,
        "incarnation": sessions.incarnation,
        "pid": os.getpid(),
        "card": msgspec.to_builtins(hub.card),
        "load": msgspec.structs.asdict(hub.load()),
        "sessions": len(sessions),
        "kept_streams": hub.table.kept,
        "operations": sorted(hub.operations),
    }
