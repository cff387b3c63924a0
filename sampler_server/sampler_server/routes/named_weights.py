"""How a plain HTTP request names the adapter that it wants."""

import re
from collections.abc import Mapping
from typing import Any

from sampler_api.errors import AdapterMissing, InvalidRequest
from sampler_api.frames import RevisionRef

from ..hub import Hub
from .bodies import check_fields, text

__all__ = ["adapter_ref", "model_ref"]

_FIELDS = ("name", "digest", "path")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def adapter_ref(base: str, adapter: Any) -> RevisionRef:
    """The weights that ``{"name", "digest", "path"}`` or null name. Raises InvalidRequest."""
    if adapter is None:
        return RevisionRef(base)
    if not isinstance(adapter, dict):
        raise InvalidRequest('adapter: must be an object with a "digest"', "adapter")
    check_fields(adapter, _FIELDS, "adapter.")
    digest = text(adapter, "digest", "adapter.")
    if digest is None or not _DIGEST.fullmatch(digest):
        raise InvalidRequest(
            "adapter.digest: must be sha256: and 64 hexadecimal digits; a name alone does not say "
            "which weights are meant",
            "adapter.digest",
        )
    name, path = text(adapter, "name", "adapter."), text(adapter, "path", "adapter.")
    return RevisionRef(base, digest, name or "", path)


def model_ref(hub: Hub, model: Any, declared: Mapping[str, str]) -> RevisionRef:
    """The weights that an OpenAI client's ``model`` names: the base, a declared adapter, or
    ``name@sha256:…``.

    An unknown name is never answered by the base. Raises InvalidRequest, AdapterMissing.
    """
    if not isinstance(model, str) or not model:
        raise InvalidRequest(f"model: must name the model; this is {hub.card.model!r}", "model")
    if model == hub.card.model:
        return RevisionRef(hub.card.base)
    if model in declared:
        return RevisionRef(hub.card.base, declared[model], model)
    name, _, digest = model.rpartition("@")
    if hub.adapters is not None and digest in hub.adapters.held():
        return RevisionRef(hub.card.base, digest, name)
    raise AdapterMissing(
        f"model: {model[:200]!r} is not served here; the base is {hub.card.model!r}, an adapter is "
        "the name of a declared one or name@sha256:… of a revision that this replica holds",
        "model",
    )
