"""The management port: probes, metrics, status and drain. From the network it can only be read."""

import ipaddress
from collections.abc import Callable

import msgspec
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from sampler_api.fleet import ReplicaStatus

from ..auth import Access
from ..errors import install_error_handlers

__all__ = ["create_manage_app"]


def create_manage_app(
    access: Access,
    status: Callable[[], ReplicaStatus],
    metrics: Callable[[], bytes],
    drain: Callable[[str], None],
    is_live: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """The application of the management port; it answers while the engine still loads.

    Started = the engine has loaded. Ready = ``status`` says so. Live = ``is_live`` (and this loop
    runs, or nobody would answer). ``metrics`` gives Prometheus' text format.
    """
    app = FastAPI(title="sampler management", docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        if not is_live():
            return JSONResponse({"live": False, "reason": "the engine has stalled"}, 503)
        return JSONResponse({"live": True})

    @router.get("/startupz")
    async def startupz() -> Response:
        now = status()
        if now.card is None:
            return JSONResponse({"started": False, "reason": now.reason}, 503)
        return JSONResponse({"started": True})

    @router.get("/readyz")
    async def readyz() -> Response:
        now = status()
        if not now.ready:
            return JSONResponse({"ready": False, "reason": now.reason}, 503)
        return JSONResponse({"ready": True})

    @router.get("/metrics")
    async def get_metrics() -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/status")
    async def get_status() -> Response:
        return Response(msgspec.json.encode(status()), media_type="application/json")

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
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    # A socket for both families shows IPv4 as ::ffff:127.0.0.1, which is no loopback by itself.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
