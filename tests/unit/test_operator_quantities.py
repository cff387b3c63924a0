"""Kubernetes' quantities."""

from decimal import Decimal

import pytest

from sampler_operator.quantities import as_number, is_same_quantity

NUMBERS = {
    2: "2",
    0: "0",
    0.5: "0.5",
    1e-07: "0.0000001",
    "2": "2",
    "2.": "2",
    ".5": "0.5",
    "0.5": "0.5",
    "500m": "0.5",
    "250u": "0.00025",
    "3n": "0.000000003",
    "1k": "1000",
    "1M": "1000000",
    "1G": "1000000000",
    "1T": "1e12",
    "1P": "1e15",
    "1E": "1e18",
    "1Ki": "1024",
    "1.5Mi": "1572864",
    "1Gi": "1073741824",
    "1Ti": "1099511627776",
    "1Pi": "1125899906842624",
    "1Ei": "1152921504606846976",
    "1e3": "1000",
    "1E3": "1000",
    "1E-3": "0.001",
    "12e+2": "1200",
    "-1Gi": "-1073741824",
    "+1": "1",
    " 1 ": "1",
}


@pytest.mark.parametrize(("quantity", "number"), NUMBERS.items(), ids=repr)
def test_it_stands_for(quantity: int | float | str, number: str) -> None:
    assert as_number(quantity) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Gi",
        "1 Gi",
        "1gi",
        "1K",
        "1mm",
        "1KiB",
        "0x10",
        "1_000",
        "٣",
        "nan",
        "sNaN",
        "inf",
        "1e",
    ],
)
def test_it_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity such as 2, 500m or 16Gi"):
        as_number(text)


@pytest.mark.parametrize(
    "text", ["1e999999999", "1e-999999999", "1E1000"], ids=["vast", "tiny", "large"]
)
def test_an_amount_beyond_all_machines_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        as_number(text)


SAME = [("1", "1000m"), (1, "1"), ("1Gi", "1024Mi"), ("0", "0Gi"), ("1e3", "1k"), (0.5, "500m")]
DIFFERENT: list[tuple[object, object]] = [
    ("1", "2"),
    ("1G", "1Gi"),
    ("1", "x"),
    ("x", "x"),
    ("1", None),
    ([], 1),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_they_are_the_same_amount(one: object, other: object) -> None:
    assert is_same_quantity(one, other)
    assert is_same_quantity(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_they_are_not_the_same_amount(one: object, other: object) -> None:
    assert not is_same_quantity(one, other)
    assert not is_same_quantity(other, one)
