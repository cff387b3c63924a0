"""docs/fault-matrix.json: rows as they were played last, each with the control of its run. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.faults.load import CALLS, SAMPLES

__all__ = ["renewed"]

Matrix = dict[str, Any]
_FORM: Final = 1


def renewed(
    former: Mapping[str, Any],
    played: Sequence[Mapping[str, Any]],
    order: Sequence[str],
    machine: str,
) -> Matrix:
    """``former`` with the rows that were ``played``, in the ``order`` of names; the first of them
    is the control of this run. Rows that are in no table any more go."""
    stall = played[0]["longest_stall_s"]
    # Rows of another form cannot be shown beside these.
    kept = former.get("rows", ()) if former.get("form") == _FORM else ()
    rows = {row["name"]: row for row in kept}
    rows |= {row["name"]: {**row, "control_stall_s": stall} for row in played}
    return {
        "form": _FORM,
        "machine": machine,
        "calls": CALLS,
        "samples": SAMPLES,
        "rows": [rows[name] for name in order if name in rows],
    }
