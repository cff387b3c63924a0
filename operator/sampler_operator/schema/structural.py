"""From a model to a structural schema, the kind of OpenAPI that an API server takes.

What the schemas of pydantic say otherwise is said in its words; what it could not be told is
refused here, with the place, and not by a cluster.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ..errors import NotStructural
from ..spec.base import Rule, SpecModel

__all__ = ["structural"]

Schema = dict[str, Any]

# Said alike on both sides. A title is noise; `additionalProperties: false` is what pruning does.
_SAME: Final = frozenset(
    {
        "default",
        "description",
        "enum",
        "format",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    }
)
_BOUNDS: Final = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_HANDLED: Final = frozenset(
    {
        *_BOUNDS,
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "items",
        "properties",
        "title",
        "x-kubernetes-list-map-keys",
    }
)
_MAP_KEYS: Final = "x-kubernetes-list-map-keys"
_ORDER: Final = ("description", "type", "x-kubernetes-int-or-string", "default")


def structural(model: type[SpecModel]) -> Schema:
    """The structural schema of ``model``. Raises NotStructural, which names the place.

    A default is kept if it says something: not null, an empty list, or an object below which
    nothing has a default. A default object with content is the operator's alone: the API server
    would write it down, and merge it with the member of a union that a later apply names. Defaults
    inside lists are too: ``kubectl apply`` and GitOps tools compare lists as a whole, and would see
    a difference for ever.
    """
    source = model.model_json_schema(schema_generator=_WithRules)
    return _Converter(source.get("$defs", {})).node(source, model.__name__, ())


def validations(rules: tuple[Rule, ...]) -> list[Schema]:
    """The rules that the API server is to hold by CEL."""
    return [
        {
            "rule": rule.cel,
            "message": rule.message,
            **({"fieldPath": f".{rule.field}"} if rule.field else {}),
        }
        for rule in rules
        if rule.cel is not None
    ]


class _WithRules(GenerateJsonSchema):
    """Adds what pydantic leaves out: the rules of models, and defaults that are made."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, SpecModel) and (rules := validations(model.rules)):
            made["x-kubernetes-validations"] = rules
        return made

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        factory = schema.get("default_factory")
        if factory is None:
            return super().get_default_value(schema)
        made = factory()  # type: ignore[call-arg]  # no factory of ours takes the other fields
        if isinstance(made, BaseModel):
            return made.model_dump(by_alias=True, exclude_unset=True)
        return made


class _Converter:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def node(self, given: Schema, path: str, inside: tuple[str, ...]) -> Schema:
        """``given`` as a structural schema; ``inside`` are the models that it is a part of."""
        if "$ref" in given:
            name = given["$ref"].rpartition("/")[2]
            if name in inside:
                raise NotStructural(f"{path}: {name} contains itself; give it a fixed depth")
            beside = {key: value for key, value in given.items() if key != "$ref"}
            return self.node({**self._definitions[name], **beside}, path, (*inside, name))
        if "anyOf" in given:
            beside = {key: value for key, value in given.items() if key != "anyOf"}
            return self.node({**_without_null(given["anyOf"], path), **beside}, path, inside)
        unknown = sorted(given.keys() - _SAME - _HANDLED)
        if unknown:
            raise NotStructural(
                f"{path}: structural schemas cannot say {', '.join(unknown)}; model it otherwise"
                " (siblings of which a rule wants one, instead of a union)"
            )
        made = {key: value for key, value in given.items() if key in _SAME}
        if "description" in made:
            made["description"] = _plain(made["description"])
        if "const" in given:
            made["enum"] = [given["const"]]
        for exclusive, bound in _BOUNDS.items():
            if exclusive in given:
                made |= {bound: given[exclusive], exclusive: True}
        self._add_parts(made, given, path, inside)
        if "type" not in made and "x-kubernetes-int-or-string" not in made:
            raise NotStructural(f"{path}: has no type; annotate it")
        if not _says_something(made.get("default"), made):
            made.pop("default", None)
        return {key: made[key] for key in sorted(made, key=_rank)}

    def _add_parts(self, made: Schema, given: Schema, path: str, inside: tuple[str, ...]) -> None:
        """The children: properties, values of a map, items of a list."""
        if "properties" in given:
            made["properties"] = {
                name: self.node(part, f"{path}.{name}", inside)
                for name, part in given["properties"].items()
            }
        elif isinstance(values := given.get("additionalProperties"), dict):
            made["additionalProperties"] = self.node(values, f"{path}[*]", inside)
        elif values is True:
            raise NotStructural(f"{path}: a map of anything; use JsonObject")
        if given.get("type") != "array":
            return
        if "items" not in given:
            raise NotStructural(f"{path}: a list needs one type of items")
        made["items"] = _without_defaults(self.node(given["items"], f"{path}[]", inside))
        keys = given.get(_MAP_KEYS)
        made["x-kubernetes-list-type"] = "map" if keys else "atomic"
        if keys:
            made[_MAP_KEYS] = keys


def _without_null(choices: list[Schema], path: str) -> Schema:
    """What may be left out is no ``required`` field; a null of its own it has not."""
    others = [choice for choice in choices if choice != {"type": "null"}]
    if len(others) != 1:
        raise NotStructural(
            f"{path}: a union of types; use IntOrPercent or Quantity, or siblings of which a rule"
            " wants one"
        )
    return others[0]


def _without_defaults(node: Schema) -> Schema:
    made = {key: value for key, value in node.items() if key != "default"}
    if "properties" in made:
        parts = made["properties"].items()
        made["properties"] = {name: _without_defaults(part) for name, part in parts}
    return made


def _says_something(default: object, node: Schema) -> bool:
    if isinstance(default, dict):
        return not default and any(
            "default" in part for part in node.get("properties", {}).values()
        )
    return default is not None and default != []


def _plain(description: str) -> str:
    """One line without mark-up, as ``kubectl explain`` shows it."""
    return " ".join(description.split()).replace("``", "'")


def _rank(key: str) -> int:
    """Words about a node come first, then its limits, then its parts, in the order they came."""
    if key in _ORDER:
        return _ORDER.index(key)
    return len(_ORDER) + (key in {"additionalProperties", "items", "properties"})
