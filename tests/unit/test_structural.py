"""Models become schemas that an API server takes; what it could not be told is refused."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from sampler_operator.errors import NotStructural
from sampler_operator.schema import structural
from sampler_operator.spec.base import IntOrPercent, JsonObject, Quantity, Rule, SpecModel


class Part(SpecModel):
    """A part."""

    size: int = 1


class Bare(SpecModel):
    """A part that says nothing of its own accord."""

    size: int | None = None


class Choice(SpecModel):
    """One of two."""

    left: Part | None = None
    right: Part | None = None


def schema(annotation: Any, field: Any = ...) -> dict[str, Any]:
    """The schema of a field."""
    made = type(
        "Model", (SpecModel,), {"__annotations__": {"some_field": annotation}, "some_field": field}
    )
    found: dict[str, Any] = structural(made)["properties"]["someField"]
    return found


SIZE = {"type": "integer", "default": 1}
FIELDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "text": (str, ..., {"type": "string"}),
    "bounds of text": (
        str,
        Field(min_length=1, max_length=9, pattern="^a"),
        {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a"},
    ),
    "bounds of a number": (
        int,
        Field(ge=1, le=9),
        {"type": "integer", "minimum": 1, "maximum": 9},
    ),
    "a limit that does not belong to it is a number with a flag": (
        float,
        Field(gt=0, lt=1),
        {
            "type": "number",
            "minimum": 0,
            "exclusiveMinimum": True,
            "maximum": 1,
            "exclusiveMaximum": True,
        },
    ),
    "what may be null may be left out": (str | None, None, {"type": "string"}),
    "bounds of what may be null": (
        int | None,
        Field(default=None, ge=2),
        {"type": "integer", "minimum": 2},
    ),
    "a default": (bool, False, {"type": "boolean", "default": False}),
    "a choice": (Literal["a", "b"], "b", {"type": "string", "enum": ["a", "b"], "default": "b"}),
    "one value": (Literal["a"], "a", {"type": "string", "enum": ["a"], "default": "a"}),
    "a description is one line without mark-up": (
        str,
        Field(description="As ``a``\n  says."),
        {"type": "string", "description": "As 'a' says."},
    ),
    "a list is replaced as a whole": (
        tuple[str, ...],
        Field(default=(), max_length=3),
        {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "string"},
            "x-kubernetes-list-type": "atomic",
        },
    ),
    "a list with keys is merged by them, and has no defaults inside": (
        tuple[Part, ...],
        Field(default=(), json_schema_extra={"x-kubernetes-list-map-keys": ["size"]}),
        {
            "type": "array",
            "items": {
                "type": "object",
                "description": "A part.",
                "properties": {"size": {"type": "integer"}},
            },
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["size"],
        },
    ),
    "a map": (
        dict[str, Annotated[str, Field(max_length=3)]],
        Field(default_factory=dict, max_length=2),
        {
            "type": "object",
            "maxProperties": 2,
            "additionalProperties": {"type": "string", "maxLength": 3},
        },
    ),
    "an object of Kubernetes' own": (
        JsonObject | None,
        None,
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    ),
    "an object whose parts have defaults is made, so that they apply": (
        Part,
        Field(default_factory=Part),
        {"type": "object", "description": "A part.", "default": {}, "properties": {"size": SIZE}},
    ),
    "an object that would be empty is not made": (
        Bare,
        Field(default_factory=Bare),
        {
            "type": "object",
            "description": "A part that says nothing of its own accord.",
            "properties": {"size": {"type": "integer"}},
        },
    ),
    "an object that may be left out is not made": (
        Part | None,
        None,
        {"type": "object", "description": "A part.", "properties": {"size": SIZE}},
    ),
    "the field's description counts, not the model's": (
        Part,
        Field(description="Mine."),
        {"type": "object", "description": "Mine.", "properties": {"size": SIZE}},
    ),
    "a choice with a default is the operator's to fill in": (
        Choice,
        Field(default_factory=lambda: Choice(left=Part())),
        {
            "type": "object",
            "description": "One of two.",
            "properties": {
                side: {"type": "object", "description": "A part.", "properties": {"size": SIZE}}
                for side in ("left", "right")
            },
        },
    ),
}


@pytest.mark.parametrize(("annotation", "field", "expected"), FIELDS.values(), ids=FIELDS.keys())
def test_a_field_becomes(annotation: Any, field: Any, expected: dict[str, Any]) -> None:
    assert schema(annotation, field) == expected


@pytest.mark.parametrize("annotation", [IntOrPercent, Quantity])
def test_a_number_or_text_has_no_type(annotation: Any) -> None:
    made = schema(annotation, 5)
    assert made["x-kubernetes-int-or-string"] is True
    assert made["default"] == 5
    assert made["minimum"] == 0
    assert "type" not in made


class Deep(SpecModel):
    """Contains itself."""

    inner: "Deep | None" = None


REFUSED: dict[str, tuple[Any, str]] = {
    "a union of types": (int | str, "Model.someField: a union of types"),
    "a union of models": (Part | Bare, "Model.someField: a union of types"),
    "a list of fixed places": (tuple[int, str], "cannot say prefixItems"),
    "a set": (frozenset[int], "cannot say uniqueItems"),
    "a map of anything": (dict[str, Any], "Model.someField: a map of anything"),
    "anything": (Any, "Model.someField: has no type"),
    "a model that contains itself": (Deep, "Model.someField.inner: Deep contains itself"),
    "what lies deep inside": (
        dict[str, tuple[int | str, ...]],
        "Model.someField[*][]: a union of types",
    ),
}


@pytest.mark.parametrize(("annotation", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_said_is_refused(annotation: Any, message: str) -> None:
    with pytest.raises(NotStructural) as caught:
        schema(annotation)
    assert message in caught.value.message


def test_names_are_those_of_yaml() -> None:
    class Named(SpecModel):
        """Named."""

        from_: str = Field(alias="from")
        max_model_len: int = 1

    made = structural(Named)
    assert list(made["properties"]) == ["from", "maxModelLen"]
    assert made["required"] == ["from"]


def test_rules_become_validations() -> None:
    class Ruled(SpecModel):
        """Ruled."""

        size: int = 1
        rules: ClassVar = (
            Rule(cel="self.size == 1", message="must be 1", holds=bool, field="size"),
            Rule(cel="has(self.size)", message="is odd", holds=bool),
            Rule(cel=None, message="held otherwise", holds=bool),
        )

    assert structural(Ruled)["x-kubernetes-validations"] == [
        {"rule": "self.size == 1", "message": "must be 1", "fieldPath": ".size"},
        {"rule": "has(self.size)", "message": "is odd"},
    ]


def test_words_come_before_parts() -> None:
    made = structural(Part)
    assert list(made) == ["description", "type", "properties"]
