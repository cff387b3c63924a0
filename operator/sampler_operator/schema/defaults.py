"""Defaults of the schema, put in as the API server does. Pure."""

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..objects import Manifest
from .crd import crd

__all__ = ["with_defaults"]


@cache
def _schema() -> Mapping[str, Any]:
    found: Mapping[str, Any] = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def with_defaults(sd: Manifest) -> Manifest:
    """A SamplerDeployment with every default of a field whose object is there."""
    filled: Manifest = _filled(sd, _schema())
    return filled


def _filled(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_filled(each, schema.get("items", {})) for each in value]
    if not isinstance(value, dict):
        return value
    fields: Mapping[str, Any] = schema.get("properties", {})
    made = dict(value)
    for name, field in fields.items():
        if made.get(name) is None and "default" in field:
            made[name] = copy.deepcopy(field["default"])
    return {name: _filled(part, fields.get(name, {})) for name, part in made.items()}
