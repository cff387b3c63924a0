"""The fault matrix for people: docs/fault-matrix.md from docs/fault-matrix.json. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["rendered"]

_INTRODUCTION = """\
# Fault matrix

Made by `make fault-matrix`, with real pods on a Kubernetes of {machine}; last played {dates}.
Not edited by hand. [cluster-tests.md](cluster-tests.md) says what the columns mean and how a row
is added.

While each of these things happened, a client sampled without end: {calls} calls of {samples}
sequences at a time, with logprobs. What it got was compared with what the replicas had written down
token by token. {verdict}
Beside the longest stall stands that of the control of the same run, in which nothing happened.
"""
_COLUMNS = (
    ("what happens", "scenario"),
    ("sequences", "requests"),
    ("in flight", "in_flight_at_fault"),
    ("continued", "continued"),
    ("lost", "lost"),
    ("duplicated", "duplicated"),
    ("wrong", "wrong"),
    ("gone", "revision_gone"),
    ("redone", "tokens_redone_max"),
    ("longest stall", "longest_stall_s"),
    ("of control", "control_stall_s"),
    ("handed over", "handed_over_s"),
    ("recovered", "recovery_s"),
    ("HTTP", "http"),
    ("verdict", "verdict"),
)


def rendered(matrix: Mapping[str, Any]) -> str:
    """The whole page."""
    rows: Sequence[Mapping[str, Any]] = matrix["rows"]
    lines = [
        _INTRODUCTION.format(
            machine=matrix["machine"],
            calls=matrix["calls"],
            samples=matrix["samples"],
            verdict=_verdict(rows),
            dates=_dates(rows),
        ),
        _line(title for title, _ in _COLUMNS),
        _line("---" if name == "scenario" else "--:" for _, name in _COLUMNS),
        *(_line(_cell(row, name) for _, name in _COLUMNS) for row in rows),
        "",
        "## What was seen",
        "",
        _line(("what happens", "how it is known that it has happened")),
        _line(("---", "---")),
        *(_line((row["scenario"], row["fault_observed"])) for row in rows),
    ]
    noted = [row for row in rows if row["failures"] or row["slow"]]
    if noted:
        lines += ["", "## Past a goal", ""]
        for row in noted:
            lines += [f"- {row['scenario']}: {'; '.join([*row['failures'], *row['slow']])}"]
    return "\n".join(lines) + "\n"


def _dates(rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = min(row["date"] for row in rows), max(row["date"] for row in rows)
    return f"{first}" if first == last else f"{first} to {last}"


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    number = {
        word: sum(row["verdict"] == word for row in rows) for word in ("ok", "slow", "failed")
    }
    parts = [f"{number['ok']} of {len(rows)} rows are at their goals"]
    if number["slow"]:
        parts.append(f"{number['slow']} are past a goal of seconds, by less than three times")
    if number["failed"]:
        parts.append(f"**{number['failed']} have failed**")
    return ", ".join(parts) + "."


def _cell(row: Mapping[str, Any], name: str) -> str:
    match name:
        case "wrong":
            return str(row["wrong_tokens"] + row["wrong_revision"])
        case "http":
            if not row["http_streams"]:
                return ""
            bad = row["http_refused"] + row["http_cut"]
            return f"{row['http_streams'] - bad} of {row['http_streams']}"
        case "longest_stall_s" | "control_stall_s" | "handed_over_s" | "recovery_s":
            return "" if row[name] is None else f"{row[name]:.1f} s"
        case "verdict":
            return f"**{row[name]}**" if row[name] == "failed" else str(row[name])
    return str(row[name])


def _line(cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
