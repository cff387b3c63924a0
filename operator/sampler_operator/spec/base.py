"""What all models of the custom resource share: camelCase on the outside, rules told once.

A :class:`Rule` is said twice, as CEL for the API server and as Python for everywhere else (the
local runtime has no API server); one table of specs holds both to the same verdict.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

__all__ = [
    "BrokenRules",
    "IntOrPercent",
    "JsonObject",
    "Quantity",
    "Rule",
    "SpecModel",
    "clean_path",
    "has_unique_names",
]

JsonObject = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object of Kubernetes' own that is handed on as it is; the API server judges it in the pod
template."""

_PERCENT: Final = r"^[0-9]+%$"
_QUANTITY: Final = r"^([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$"


def _int_or_string(pattern: str, claim: str) -> tuple[PlainValidator, WithJsonSchema]:
    """A number from 0, or a string of ``pattern``: one check for both, so one error."""

    def checked(value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        in_quotes = "; write it in quotes" if isinstance(value, float) else ""
        raise ValueError(f"{claim}{in_quotes}")

    schema = {"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": pattern}
    return PlainValidator(checked), WithJsonSchema({**schema, "maxLength": 64})


IntOrPercent = Annotated[
    int | str, *_int_or_string(_PERCENT, "must be a number from 0 or a percentage such as '25%'")
]
"""Pods, as a number or as a share of ``replicas``."""

Quantity = Annotated[
    int | str, *_int_or_string(_QUANTITY, "must be a quantity such as 2, '500m' or '16Gi'")
]
"""An amount as Kubernetes writes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A claim about a whole model: ``cel`` and ``holds`` say the same; ``message`` tells what to
    do, ``field`` where, as a path from the model; without it the claim is about the model itself.
    Without ``cel`` the API server holds it by other means (list types)."""

    cel: str | None
    message: str
    holds: Callable[[Any], bool]
    field: str = ""


def has_unique_names(parts: Iterable[Any]) -> bool:
    """Whether no two of ``parts`` have one name: what list type map means to the API server."""
    names = [part.name for part in parts]
    return len(set(names)) == len(names)


_CLEAN: Final = "^(/[^/]+)+/?$"
_DOTS: Final = "/[.][.]?(/|$)"


def clean_path(field: str) -> Rule:
    """The rule that the path ``field`` (a name of YAML, in one word or camelCase) leads where it
    reads: it is compared with others by its words."""
    name = re.sub("(?=[A-Z])", "_", field).lower()

    def holds(part: Any) -> bool:
        path = getattr(part, name)
        return re.search(_CLEAN, path) is not None and re.search(_DOTS, path) is None

    return Rule(
        cel=f"self.{field}.matches('{_CLEAN}') && !self.{field}.matches('{_DOTS}')",
        message="must be a path without //, /./ and /../; write where it leads",
        holds=holds,
        field=field,
    )


class BrokenRules(ValueError):
    """A model does not obey all its rules."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        super().__init__(rules)
        self.rules = rules

    def __str__(self) -> str:
        return "; ".join(f"{rule.field}: {rule.message}".lstrip(": ") for rule in self.rules)


class SpecModel(BaseModel):
    """Base of all models: immutable, camelCase names, unknown names refused, nothing converted
    (the API server takes no ``"3"`` for 3 either)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
        strict=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_json(cls, given: Any) -> Any:
        """JSON's arrays as tuples, without the nulls: for the API server too, a null where none
        may be is a field that was left out."""
        if not isinstance(given, dict):
            return given
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None
        }

    @model_validator(mode="after")
    def _obeys_rules(self) -> Self:
        broken = tuple(rule for rule in self.rules if not rule.holds(self))
        if broken:
            raise BrokenRules(broken)
        return self
