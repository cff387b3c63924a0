"""Request bodies: JSON objects whose fields are known, or a typed error that names the nearest."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from sampler_api.errors import InvalidRequest
from sampler_api.params import SamplingParams

__all__ = ["check_fields", "flag", "integer", "json_object", "sampling_params", "text"]


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidRequest, PayloadTooLarge."""
    return parse_object(await request.body())


def parse_object(body: bytes) -> dict[str, Any]:
    """Bytes as a JSON object. Raises InvalidRequest."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"body: no JSON: {error}", "body") from None
    if not isinstance(value, dict):
        raise InvalidRequest("body: must be a JSON object", "body")
    return value


def check_fields(values: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
    """Raises InvalidRequest for a name that is not ``known``; it proposes the nearest."""
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            field = f"{where}{name}"
            raise InvalidRequest(f"{field}: unknown field{hint}", field)


def sampling_params(values: Mapping[str, Any]) -> SamplingParams:
    """Checked params of JSON values. Raises InvalidRequest."""
    try:
        return SamplingParams.from_dict(values)
    except InvalidRequest:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        # Shapes that the params were not written for, as a number where a list belongs.
        raise InvalidRequest(f"sampling_params: {error}", "sampling_params") from None


def flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A true-or-false field; null is the default."""
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name}: must be true or false, not {value!r}", name)
    return value


def integer(values: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """A bounded integer field; ``None`` when absent or null."""
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(
            f"{name}: must be an integer between {low} and {high}, not {value!r}", name
        )
    return value


def text(values: Mapping[str, Any], name: str, where: str = "") -> str | None:
    """A text field; ``None`` when absent or null."""
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        field = f"{where}{name}"
        raise InvalidRequest(f"{field}: must be a text, not {value!r}", field)
    return value
