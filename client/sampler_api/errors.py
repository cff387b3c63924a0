"""Every error that a caller of the samplers, or another process of the fleet, can see.

The tree (each class carries a stable ``code`` and whether a retry elsewhere can help):

* SamplerError
  * InvalidRequest            the caller's fault; names the field
    * Unsupported             a feature that this version or engine does not have
    * LogprobsModeUnavailable the engine serves the other logprobs mode
  * AdapterError
    * AdapterInvalid          files that are no usable adapter; names the file
    * AdapterUnsupported      a valid adapter of a kind that this engine cannot serve
    * AdapterMissing          the replica does not hold the revision and cannot read it (retryable)
    * AdapterCapacity         no room for another revision (retryable)
  * ModelError
    * BaseMismatch            the replica serves another base than the request names (retryable)
    * RevisionGone            no replica serves the revision any more; carries partial results
    * ModelInvalid            the model cannot be loaded
    * WeightsInvalid          a directory that cannot replace the base's weights; names the file
  * FleetError
    * Unauthorized            missing or wrong token
    * Forbidden               the token's role does not allow this
    * ProtocolError           a malformed frame or an unknown protocol version
    * PayloadTooLarge         a body, frame or prompt over the limit
    * Busy                    no room now (retryable)
    * Draining                the replica is leaving (retryable)
    * UnknownRequest          the replica does not know the request id (retryable)
    * NoReplica               no endpoint can be reached (retryable)
    * ConnectTimeout          an endpoint did not answer in time (retryable)
    * ProgressTimeout         a stream made no progress in time (retryable)
    * SamplerClosed           used after close, or closed while waiting
  * EngineError
    * EngineFailed            the engine failed on this request (retryable)
    * EngineDead              the engine does not run any more (retryable)
    * PoisonRequest           a request that engines fail on wherever it goes
  * Cancelled                 the caller or the server cancelled the request

What ``sample`` raises is the error of the first input that failed; it carries ``errors`` (input
index to error) and ``responses`` (the complete list: a failed input has sequences with
``stop_reason="error"`` and what had arrived).

The table ``HTTP_STATUS`` is the only mapping between codes and HTTP statuses; server and client
both use it. All errors pickle: arguments are the constructor's.
"""

from typing import Any, ClassVar

__all__ = [
    "HTTP_STATUS",
    "AdapterCapacity",
    "AdapterError",
    "AdapterInvalid",
    "AdapterMissing",
    "AdapterUnsupported",
    "BaseMismatch",
    "Busy",
    "Cancelled",
    "ConnectTimeout",
    "Draining",
    "EngineDead",
    "EngineError",
    "EngineFailed",
    "FleetError",
    "Forbidden",
    "InvalidRequest",
    "LogprobsModeUnavailable",
    "ModelError",
    "ModelInvalid",
    "NoReplica",
    "PayloadTooLarge",
    "PoisonRequest",
    "ProgressTimeout",
    "ProtocolError",
    "RevisionGone",
    "SamplerClosed",
    "SamplerError",
    "Unauthorized",
    "UnknownRequest",
    "Unsupported",
    "WeightsInvalid",
    "error_class",
    "error_from_wire",
]


class SamplerError(Exception):
    """Base of all errors: ``message`` for people, ``field`` names what to change."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    errors: "dict[int, SamplerError] | None" = None
    responses: Any = None

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def __reduce__(self) -> tuple[type, tuple[Any, ...], dict[str, Any]]:
        return type(self), (self.message, self.field), dict(self.__dict__)

    def __str__(self) -> str:
        return self.message


class InvalidRequest(SamplerError, ValueError):
    """The request itself is wrong; the same request fails everywhere."""

    code = "invalid_request"


class Unsupported(InvalidRequest):
    """A key or feature that this version or engine does not serve."""

    code = "unsupported"


class LogprobsModeUnavailable(InvalidRequest):
    """The engine computes the other kind of logprobs (raw or processed)."""

    code = "logprobs_mode_unavailable"


class AdapterError(SamplerError):
    """Base of the errors about adapters."""

    code = "adapter_error"


class AdapterInvalid(AdapterError, ValueError):
    """The directory is no usable adapter: missing, truncated, pickled, misshapen, outside the
    roots."""

    code = "adapter_invalid"


class AdapterUnsupported(AdapterError):
    """A valid adapter of a kind (DoRA, modules_to_save, ...) that the engine cannot serve."""

    code = "adapter_unsupported"


class AdapterMissing(AdapterError):
    """The replica does not hold this revision and cannot read it from a volume."""

    code = "adapter_missing"
    retryable = True


class AdapterCapacity(AdapterError):
    """All adapter slots are taken by revisions in use."""

    code = "adapter_capacity"
    retryable = True


class ModelError(SamplerError):
    """Base of the errors about the base model."""

    code = "model_error"


class BaseMismatch(ModelError):
    """The replica serves another base digest than the request names."""

    code = "base_mismatch"
    retryable = True


class RevisionGone(ModelError):
    """No replica serves the revision of this request any more."""

    code = "revision_gone"


class ModelInvalid(ModelError):
    """The model directory cannot be loaded."""

    code = "model_invalid"


class WeightsInvalid(ModelError, ValueError):
    """The directory cannot take the place of the base that is served: other shapes, a truncated
    file, NaN, another tokenizer; the old weights go on serving."""

    code = "weights_invalid"


class FleetError(SamplerError):
    """Base of the errors on the way to and inside a fleet."""

    code = "fleet_error"


class Unauthorized(FleetError):
    """The token is missing or wrong."""

    code = "unauthorized"


class Forbidden(FleetError):
    """The token's role does not allow this operation."""

    code = "forbidden"


class ProtocolError(FleetError):
    """A malformed frame, or a protocol version that the peer does not speak."""

    code = "protocol_error"


class PayloadTooLarge(FleetError):
    """A body or frame over the limit."""

    code = "payload_too_large"


class Busy(FleetError):
    """No room for the request now."""

    code = "busy"
    retryable = True


class Draining(FleetError):
    """The replica is leaving the fleet."""

    code = "draining"
    retryable = True


class UnknownRequest(FleetError):
    """The replica does not know this request id (any more)."""

    code = "unknown_id"
    retryable = True


class NoReplica(FleetError):
    """No endpoint of the fleet can be reached."""

    code = "no_replica"
    retryable = True


class ConnectTimeout(FleetError, TimeoutError):
    """An endpoint did not answer within the connect timeout."""

    code = "connect_timeout"
    retryable = True


class ProgressTimeout(FleetError, TimeoutError):
    """A stream showed neither token nor beat, or a request got no answer, for its timeout."""

    code = "progress_timeout"
    retryable = True


class SamplerClosed(FleetError):
    """The sampler was closed."""

    code = "closed"


class EngineError(SamplerError):
    """Base of the errors of engines."""

    code = "engine_error"


class EngineFailed(EngineError):
    """The engine failed on this request; others go on."""

    code = "engine_failed"
    retryable = True


class EngineDead(EngineError):
    """The engine does not run any more."""

    code = "engine_dead"
    retryable = True


class PoisonRequest(EngineError):
    """Engines fail on this request wherever it goes."""

    code = "poison_request"


class Cancelled(SamplerError):
    """The request was cancelled."""

    code = "cancelled"


def _subclasses(base: type[SamplerError]) -> list[type[SamplerError]]:
    found = [base]
    for child in base.__subclasses__():
        found.extend(_subclasses(child))
    return found


_CLASSES: dict[str, type[SamplerError]] = {cls.code: cls for cls in _subclasses(SamplerError)}

HTTP_STATUS: dict[str, int] = {
    "invalid_request": 400,
    "unsupported": 400,
    "logprobs_mode_unavailable": 400,
    "protocol_error": 400,
    "adapter_invalid": 400,
    "adapter_unsupported": 400,
    "weights_invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "adapter_missing": 404,
    "unknown_id": 404,
    "base_mismatch": 409,
    "revision_gone": 410,
    "payload_too_large": 413,
    "poison_request": 422,
    "busy": 429,
    "cancelled": 499,
    "internal": 500,
    "adapter_error": 500,
    "model_error": 500,
    "fleet_error": 500,
    "engine_error": 500,
    "engine_failed": 500,
    "model_invalid": 500,
    "closed": 503,
    "draining": 503,
    "no_replica": 503,
    "engine_dead": 503,
    "adapter_capacity": 503,
    "connect_timeout": 504,
    "progress_timeout": 504,
}
"""HTTP status of each error code."""


def error_class(code: str) -> type[SamplerError]:
    """The class of a code; ``SamplerError`` for a code of a newer peer."""
    return _CLASSES.get(code, SamplerError)


def error_from_wire(code: str, message: str, field: str | None = None) -> SamplerError:
    """The error that a peer sent."""
    return error_class(code)(message, field)
