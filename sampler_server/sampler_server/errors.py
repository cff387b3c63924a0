"""Errors as HTTP answers: one shape and one table for every route and both ports."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sampler_api.errors import HTTP_STATUS, InvalidRequest, SamplerError

__all__ = ["error_body", "error_response", "install_error_handlers"]

_RETRY_AFTER_SECONDS = "1"
_WAIT = (429, 503)
_CODES = {404: "not_found", 405: "method_not_allowed"}


def error_body(error: SamplerError) -> dict[str, Any]:
    """``{"error": {code, message, field, retryable}}``."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "field": error.field,
            "retryable": error.retryable,
        }
    }


def error_response(error: SamplerError) -> JSONResponse:
    """The answer for an error; busy and leaving replicas say when to come back."""
    status = HTTP_STATUS[error.code]
    headers: dict[str, str] = {}
    if status in _WAIT:
        headers["Retry-After"] = _RETRY_AFTER_SECONDS
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make every route of ``app`` answer errors in the one shape."""

    async def sampler_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SamplerError)
        return error_response(error)

    async def validation_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        # FastAPI's locations begin with the part of the request: body, query, path.
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        named = f"{field}: " if field else ""
        return error_response(InvalidRequest(f"{named}{first['msg']}", field))

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = error_body(SamplerError(str(error.detail)))
        body["error"]["code"] = _CODES.get(error.status_code, "invalid_request")
        return JSONResponse(body, error.status_code, dict(error.headers or {}))

    app.add_exception_handler(SamplerError, sampler_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
