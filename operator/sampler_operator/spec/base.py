"""What all models of the custom resource share: camelCase on the outside, rules told once.

A :class:`Rule` is said twice, as CEL for the API server and as Python for everywhere else (the
local runtime has no API server); one table of specs holds both to the same verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

__all__ = ["IntOrString", "JsonObject", "Quantity", "Rule", "SpecModel"]

JsonObject = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object of Kubernetes' own that is handed on as it is; the API server judges it in the pod
template."""

IntOrString = Annotated[int | str, WithJsonSchema({"x-kubernetes-int-or-string": True})]

_QUANTITY = r"^[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$"

Quantity = Annotated[
    int | str,
    Field(union_mode="left_to_right"),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _QUANTITY}),
]
"""An amount as Kubernetes writes it: ``2``, ``500m``, ``16Gi``."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A claim about a whole model: ``cel`` and ``holds`` say the same; ``message`` tells what to
    do, ``field`` where. Without ``cel`` the API server holds it by other means (list types)."""

    cel: str | None
    message: str
    holds: Callable[[Any], bool]
    field: str = ""


class SpecModel(BaseModel):
    """Base of all models: immutable, camelCase names, unknown names refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obeys_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self
