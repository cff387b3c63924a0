"""The management port: probes, metrics, status, drain and weights. From the network it can only be
read, but by admins."""

import ipaddress
from typing import Final, Protocol

import msgspec
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from sampler_api.errors import InvalidRequest, PayloadTooLarge
from sampler_api.fleet import ReplicaStatus, WeightsUpdate, WeightsUpdated
from sampler_api.names import WEIGHTS_PATH

from ..auth import Access
from ..errors import install_error_handlers

__all__ = ["Managed", "create_manage_app"]

_MOST_BYTES: Final = 64 << 10


class Managed(Protocol):
    """What stands behind the port: one replica, or several engines of a pod."""

    async def status(self) -> ReplicaStatus:
        """Its own account; also while an engine loads."""
        ...

    async def metrics(self) -> bytes:
        """Prometheus' text format."""
        ...

    async def death(self) -> str:
        """Why it must be started anew; empty while it is alive."""
        ...

    async def update_weights(self, wanted: WeightsUpdate) -> WeightsUpdated:
        """Serve the base weights of a directory instead; returns when they serve."""
        ...

    def drain(self, reason: str) -> None:
        """Begin to leave; any number of times."""
        ...


def create_manage_app(managed: Managed, access: Access) -> FastAPI:
    """The application of the management port; it answers while the engine still loads.

    Started = the engine has loaded. Ready = the status says so. Live = nothing has died (and this
    loop runs, or nobody would answer).
    """
    app = FastAPI(title="sampler management", docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        death = await managed.death()
        if death:
            return JSONResponse({"live": False, "reason": death}, 503)
        return JSONResponse({"live": True})

    @router.get("/startupz")
    async def startupz() -> Response:
        now = await managed.status()
        if now.card is None:
            return JSONResponse({"started": False, "reason": now.reason}, 503)
        return JSONResponse({"started": True})

    @router.get("/readyz")
    async def readyz() -> Response:
        now = await managed.status()
        if not now.ready:
            return JSONResponse({"ready": False, "reason": now.reason}, 503)
        return JSONResponse({"ready": True})

    @router.get("/metrics")
    async def get_metrics() -> Response:
        return Response(await managed.metrics(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/status")
    async def get_status() -> Response:
        return Response(msgspec.json.encode(await managed.status()), media_type="application/json")

    @router.post("/drain")
    async def post_drain(request: Request) -> Response:
        _check_admin(request, access)
        managed.drain("asked for by POST /drain")
        return JSONResponse({"draining": True}, 202)

    @router.post(WEIGHTS_PATH)
    async def post_weights(request: Request) -> Response:
        _check_admin(request, access)
        try:
            wanted = msgspec.json.decode(await _body(request), type=WeightsUpdate)
        except msgspec.MsgspecError as error:
            # As in "Invalid enum value 'x' - at `$.in_flight`".
            field = str(error).rpartition("`$.")[2].removesuffix("`") or None
            raise InvalidRequest(f"body: {error}", field if "`$." in str(error) else None) from None
        updated = await managed.update_weights(wanted)
        return Response(msgspec.json.encode(updated), media_type="application/json")

    app.include_router(router)
    return app


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise PayloadTooLarge(f"body: larger than the limit of {_MOST_BYTES} bytes", "body")
    return bytes(body)


def _check_admin(request: Request, access: Access) -> None:
    """Raises Unauthorized, Forbidden: whoever is on this machine, and admins, may."""
    if not _is_loopback(request):
        access.check(request.headers, "admin")


def _is_loopback(request: Request) -> bool:
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    # A socket for both families shows IPv4 as ::ffff:127.0.0.1, which is no loopback by itself.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
