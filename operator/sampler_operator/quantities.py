"""Kubernetes' quantities (``500m``, ``16Gi``) as numbers.

Source: the serialisation format of ``k8s.io/apimachinery/pkg/api/resource.Quantity``.
"""

import re
from decimal import Decimal
from typing import Final

__all__ = ["as_number", "is_same_quantity"]

_FORM: Final = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE]?)|[eE]([+-]?[0-9]{1,3}))"
)
_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def as_number(quantity: int | float | str) -> Decimal:
    """The number that a quantity stands for. Raises ValueError for what is none."""
    text = str(quantity).strip()
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no quantity such as 2, 500m or 16Gi")
    digits, suffix, exponent = found.groups()
    return Decimal(digits) * (
        _FACTORS[suffix] if exponent is None else Decimal(10) ** int(exponent)
    )


def is_same_quantity(a: object, b: object) -> bool:
    """Whether both are quantities of one amount (``1`` and ``1000m``)."""
    if not isinstance(a, (int, float, str)) or not isinstance(b, (int, float, str)):
        return False
    try:
        return as_number(a) == as_number(b)
    except ValueError:
        return False
