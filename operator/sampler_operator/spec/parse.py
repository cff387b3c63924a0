"""From a manifest to the model, with errors that say where in the YAML and what to do."""

import difflib
import re
from collections.abc import Iterator, Mapping
from inspect import isclass
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .. import names
from ..errors import InvalidSpec
from .base import BrokenRules
from .deployment import SamplerDeployment

__all__ = ["known_part", "parse"]

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MOST_HOMES: Final = 3
_MOST_BESIDE: Final = 12
_TOP: Final = {"apiVersion": names.API_VERSION, "kind": names.KIND}

Location = tuple[int | str, ...]

# What pydantic found, and what people are told; the words in braces are its own.
_TEXTS: Final = {
    "bool_type": "must be true or false, not {input}",
    "dict_type": "must be a mapping, not {input}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number, not {input}",
    "greater_than": "must be more than {gt}, not {input}",
    "greater_than_equal": "must be at least {ge}, not {input}",
    "int_from_float": "must be a whole number, not {input}",
    "int_type": "must be a whole number, not {input}",
    "less_than": "must be less than {lt}, not {input}",
    "less_than_equal": "must be at most {le}, not {input}",
    "literal_error": "must be {expected}, not {input}",
    "missing": "is required",
    "model_attributes_type": "must be a mapping, not {input}",
    "model_type": "must be a mapping, not {input}",
    "string_pattern_mismatch": "must match {pattern}, which {input} does not",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be text, not {input}; write it in quotes",
    "too_long": "must have at most {max_length} entries",
    "tuple_type": "must be a list, not {input}",
}


class _Problem(NamedTuple):
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def parse(manifest: object) -> SamplerDeployment:
    """The SamplerDeployment that ``manifest`` is. Raises InvalidSpec, which tells every problem
    in one line."""
    if not isinstance(manifest, Mapping):
        raise InvalidSpec("a SamplerDeployment is a mapping of apiVersion, kind, metadata and spec")
    problems = [
        _Problem(name, f"must be {wanted}, not {_shown(manifest.get(name))}")
        for name, wanted in _TOP.items()
        if manifest.get(name) != wanted
    ]
    # Of another kind, every further problem would be noise.
    if not problems:
        known = _fields(SamplerDeployment)
        problems = [_unknown((name,)) for name in manifest if name not in known]
        try:
            made = SamplerDeployment.model_validate(dict(manifest), by_alias=True, by_name=False)
        except ValidationError as error:
            problems += [each for found in error.errors() for each in _problems(found)]
        else:
            if not problems:
                return made
    # A chained ValidationError would say the same again, in many lines.
    raise InvalidSpec("; ".join(map(str, problems)), problems[0].path) from None


def known_part(manifest: Mapping[str, Any]) -> tuple[SamplerDeployment, tuple[str, ...]]:
    """The SamplerDeployment that ``manifest`` is without its unknown fields, and their paths. The
    API server keeps no field that is not in the schema, so a newer schema has them. Raises
    InvalidSpec for whatever else is wrong."""
    paths: list[str] = []
    known: Any = manifest
    while True:
        try:
            return parse(known), tuple(paths)
        except InvalidSpec:
            unknown = _unknown_fields(known)
            if not unknown:
                raise
        paths += map(_path, unknown)
        for location in unknown:
            known = _without(known, location)


def _unknown_fields(manifest: Mapping[str, Any]) -> list[Location]:
    try:
        SamplerDeployment.model_validate(dict(manifest), by_alias=True, by_name=False)
    except ValidationError as error:
        return [found["loc"] for found in error.errors() if found["type"] == "extra_forbidden"]
    return []


def _without(value: Any, location: Location) -> Any:
    step, *rest = location
    if isinstance(value, list):
        return [
            _without(part, tuple(rest)) if at == step else part for at, part in enumerate(value)
        ]
    if not rest:
        return {name: part for name, part in value.items() if name != step}
    return {**value, step: _without(value[step], tuple(rest))}


def _problems(found: ErrorDetails) -> Iterator[_Problem]:
    location, context = found["loc"], found.get("ctx", {})
    broken = context.get("error")
    if isinstance(broken, BrokenRules):
        for rule in broken.rules:
            yield _Problem(".".join(filter(None, (_path(location), rule.field))), rule.message)
    elif found["type"] == "extra_forbidden":
        yield _unknown(location)
    elif found["type"] == "string_too_short":
        yield _Problem(_path(location), "must not be empty; leave it out instead")
    elif location[-1] == "[key]":
        yield _Problem(_path(location[:-1]), "names must be text; write this one in quotes")
    elif found["type"] in _TEXTS:
        text = _TEXTS[found["type"]].format(**{**context, "input": _shown(found["input"])})
        yield _Problem(_path(location), text)
    else:
        yield _Problem(_path(location), str(broken) if broken else found["msg"])


def _unknown(location: Location) -> _Problem:
    """An unknown field: where a field of this name is, or the nearest name beside it."""
    *above, name = location
    model = _model_at(tuple(above))
    beside = list(_fields(model)) if model is not None else []
    near = difflib.get_close_matches(str(name), beside, n=1)
    homes = sorted(set(_homes(str(name), SamplerDeployment, "")))
    if 0 < len(homes) <= _MOST_HOMES:
        hint = f"it belongs to {_one_of(homes)}"
    elif near:
        hint = f"did you mean {near[0]}?"
    elif 0 < len(beside) <= _MOST_BESIDE:
        hint = f"remove it; known here are {', '.join(beside)}"
    else:
        hint = "remove it"
    return _Problem(_path(location), f"unknown field; {hint}")


def _one_of(places: list[str]) -> str:
    *others, last = places
    return f"{', '.join(others)} or {last}" if others else last


def _path(location: Location) -> str:
    """A place as people write it: ``spec.lora.adapters[0].path``."""
    path = ""
    for step in location:
        is_name = isinstance(step, str) and _PLAIN_KEY.fullmatch(step)
        path += f".{step}" if is_name else f"[{step}]"
    return path.removeprefix(".")


def _shown(value: object) -> str:
    """``value`` as YAML has it, cut to what fits in a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that is somewhere in ``annotation``: alone, optional, or in a list."""
    if isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _model_at(location: Location) -> type[BaseModel] | None:
    model: type[BaseModel] | None = SamplerDeployment
    for step in location:
        if isinstance(step, str) and model is not None:
            field = _fields(model).get(step)
            model = _model_in(field.annotation) if field else None
    return model


def _homes(name: str, model: type[BaseModel], path: str) -> Iterator[str]:
    """Where in the spec fields of this name are."""
    for alias, field in _fields(model).items():
        part = f"{path}.{alias}".removeprefix(".")
        if alias == name and path:
            yield path
        inner = _model_in(field.annotation)
        if inner is not None and part != "metadata":
            yield from _homes(name, inner, part)
