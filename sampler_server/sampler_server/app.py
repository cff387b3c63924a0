"""The data port: sessions, the tokenizer, models, adapters; further routes join as routers."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from sampler_api.errors import InvalidRequest, PayloadTooLarge, Unsupported
from sampler_api.frames import RevisionRef
from sampler_api.names import ADAPTERS_PATH, SESSION_PATH, TOKENIZER_PATH

from .auth import Access
from .errors import error_response, install_error_handlers
from .gate import BaseGate
from .hub import Adapters, Hub
from .served_weights import ChangeGate
from .settings import ServeSettings
from .websocket import Sessions

__all__ = ["BodyLimit", "create_app"]

_MSGPACK = "application/msgpack"


class BodyLimit:
    """Refuses request bodies over ``limit`` bytes with 413, also those that announce no length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = PayloadTooLarge(f"body: larger than the limit of {self.limit} bytes", "body")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit:
            await error_response(error)(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise error
            return message

        await self.app(scope, limited, send)


def create_app(
    hub: Hub,
    settings: ServeSettings,
    *,
    access: Access | None = None,
    sessions: Sessions | None = None,
    routers: Sequence[APIRouter] = (),
    declared: Callable[[], Mapping[str, str]] = dict,
    base_problem: Callable[[], str] = str,
) -> FastAPI:
    """The application of the data port.

    ``routers`` are served beside the routes of this module; they find ``hub``, ``access``,
    ``settings`` and ``declared`` in ``request.app.state``. ``declared``: digests of the adapters
    that a name alone stands for. While ``base_problem`` says something, nothing is served.
    """
    if access is None:
        access = Access.of_file(settings.token_file)
    if sessions is None:
        sessions = Sessions(hub, settings, access)
    app = FastAPI(title="sampler", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.hub = hub
    app.state.access = access
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.declared = declared
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(ChangeGate, change=hub.change)
    app.add_middleware(BaseGate, problem=base_problem)
    install_error_handlers(app)
    app.include_router(_router)
    for router in routers:
        app.include_router(router)
    return app


_router = APIRouter()


@_router.websocket(SESSION_PATH)
async def session(socket: WebSocket) -> None:
    """Frames of ``sampler.v1``."""
    sessions: Sessions = socket.app.state.sessions
    await sessions.serve(socket)


@_router.get(TOKENIZER_PATH)
async def tokenizer(request: Request) -> Response:
    """Digest and files of the tokenizer: msgpack when asked for, else JSON with base64."""
    request.app.state.access.check(request.headers, "sample")
    served = request.app.state.hub.tokenizer
    if served is None:
        raise Unsupported("tokenizer: this replica serves a model without tokenizer files")
    if _MSGPACK in request.headers.get("accept", ""):
        body = msgspec.msgpack.encode({"digest": served.digest, "files": dict(served.files)})
        return Response(body, media_type=_MSGPACK)
    files = {name: base64.b64encode(data).decode() for name, data in served.files.items()}
    return JSONResponse({"digest": served.digest, "files": files})


@_router.get("/v1/models")
async def models(request: Request) -> Mapping[str, Any]:
    """The base model, the declared adapters and all that are held, as OpenAI clients expect."""
    request.app.state.access.check(request.headers, "sample")
    hub: Hub = request.app.state.hub
    declared: Mapping[str, str] = request.app.state.declared()
    card = hub.card
    common = {"object": "model", "created": 0, "owned_by": "sampler", "base": card.base}
    models = [{"id": card.model, "max_model_len": card.context_limit, **common}]
    held = hub.adapters.held() if hub.adapters is not None else {}
    named = sorted(declared.items())
    named += [(f"{name}@{digest}", digest) for digest, name in sorted(held.items())]
    for name, digest in named:
        models.append({"id": name, "parent": card.model, "adapter": digest, **common})
    return {"object": "list", "data": models}


class AdapterRequest(BaseModel):
    """Either ``config``, a PEFT config as in ``adapter_config.json``: make the zero adapter of it.
    Or ``digest`` and ``path``: load that revision from that directory now."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any] | None = None
    name: str = ""
    digest: str | None = None
    path: str | None = None


@_router.get(ADAPTERS_PATH)
async def adapters(request: Request) -> Mapping[str, Any]:
    """The revisions that this replica can serve now."""
    request.app.state.access.check(request.headers, "sample")
    held = _adapters(request).held()
    return {"adapters": [{"digest": d, "name": n} for d, n in sorted(held.items())]}


def _may_sample(request: Request) -> None:
    request.app.state.access.check(request.headers, "sample")


# A dependency runs before the body is judged: who has no token learns nothing else.
@_router.post(ADAPTERS_PATH, status_code=201, dependencies=[Depends(_may_sample)])
async def add_adapter(request: Request, body: AdapterRequest) -> Mapping[str, Any]:
    """Make a zero adapter (the same digest on every replica), or load a revision ahead of time.

    Loading needs no more than the right to sample: a request that names the revision does it too.
    """
    if body.config is not None:
        request.app.state.access.check(request.headers, "publish")
        return {"digest": await _adapters(request).create(body.config)}
    if body.digest is None or body.path is None:
        raise InvalidRequest("digest: give digest and path, or config", "digest")
    store = _adapters(request)
    card = request.app.state.hub.card
    await store.acquire(RevisionRef(card.base, body.digest, body.name, body.path))
    store.release(body.digest)
    return {"digest": body.digest}


def _adapters(request: Request) -> Adapters:
    store: Adapters | None = request.app.state.hub.adapters
    if store is None:
        raise Unsupported("adapters: this replica serves none")
    return store
