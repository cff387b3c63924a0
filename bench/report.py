"""What all benchmarks print: one JSON object with ``--json``, else a table for people."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

__all__ = ["Row", "arguments", "publish"]

Row = tuple[str, str, float | None, str]
"""Name of a figure, its unit, its goal if it has one, and the goal's sense, ``>=`` or ``<=``."""


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with ``--json`` and ``--short``."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--short", action="store_true", help="a small form, for CI")
    return parser


def publish(
    name: str,
    rows: Sequence[Row],
    figures: Mapping[str, float],
    baseline: Mapping[str, float],
    ratio: Mapping[str, float],
    *,
    as_json: bool,
    packages: Sequence[str] = ("sampler-operator", "websockets", "msgspec", "numpy"),
) -> None:
    """Print the result; ``rows`` are the lines of the table."""
    if as_json:
        report: dict[str, Any] = {
            "name": name,
            "figures": _rounded(figures),
            "baseline": _rounded(baseline),
            "ratio": _rounded(ratio),
            "machine": {
                "cpu": platform.processor() or platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
                "load": [round(x, 2) for x in os.getloadavg()],
                "python": platform.python_version(),
            },
            "versions": {package: version(package) for package in packages},
            "command": " ".join(["python", *sys.argv]),
        }
        print(json.dumps(report))
        return
    print(f"{'figure':34}{'measured':>12}{'goal':>12}{'baseline':>12}")
    for figure, unit, goal, sense in rows:
        wanted = "" if goal is None else f"{sense} {goal:,.5g}"
        other = f"{baseline[figure]:,.5g}" if figure in baseline else ""
        verdict = "" if _is_met(figures[figure], goal, sense) else "  MISSED"
        print(f"{figure:34}{figures[figure]:>12,.5g}{wanted:>12}{other:>12}  {unit}{verdict}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


def _is_met(value: float, goal: float | None, sense: str) -> bool:
    if goal is None:
        return True
    # A figure that could not be taken is no number, and meets nothing.
    return value >= goal if sense == ">=" else value <= goal


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
