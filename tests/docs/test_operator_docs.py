"""What docs/operator.md says of the operator is what the operator says of itself."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from tests.spec_cases import MINIMAL, changed, manifest
from tests.spec_effects import EFFECTS, Effect, SpecEffect

from sampler_cli.main import app as sampler_app
from sampler_operator.__main__ import app as operator_app
from sampler_operator.metrics import OperatorMetrics
from sampler_operator.names import Key
from sampler_operator.spec.parse import parse
from sampler_operator.status import ConditionType, Reason, state_of

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
PAGE = (ROOT / "docs" / "operator.md").read_text()

CODE = re.compile(r"`([^`]+)`")
OUTCOMES = {
    "scales": Effect.SCALES,
    "counts from the next rollout on": Effect.STEERS,
    "leaves pods alone": Effect.NONE,
    "replaces the pods": Effect.ROLLS,
}


def section(heading: str) -> str:
    """What is below a heading of the second level."""
    _, found, rest = PAGE.partition(f"\n## {heading}\n")
    assert found, f"docs/operator.md has no section {heading!r}"
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their headings."""
    bodies = re.sub(r"^\|.+\|\n\|(?:-+\|)+$", "", text, flags=re.MULTILINE)
    lines = re.findall(r"^\|(.+)\|$", bodies, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def names_in(cells: list[list[str]]) -> list[str]:
    """The name in each row's first cell."""
    return [CODE.findall(row[0])[0] for row in cells]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


# Reasons, conditions, metrics


def test_each_reason_is_explained_once() -> None:
    assert sorted(names_in(rows(section("Reasons")))) == sorted(Reason)


def test_each_reason_has_a_meaning_and_something_to_do() -> None:
    thin = [row[0] for row in rows(section("Reasons")) if len(row) != 3 or not all(row)]
    assert thin == []


def test_each_condition_is_explained_in_the_order_of_the_status() -> None:
    assert names_in(rows(section("Conditions"))) == list(ConditionType)


def test_each_metric_is_explained() -> None:
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry)
    metrics.states[Key("default", "fleet")] = "ready"
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }
    assert set(names_in(rows(section("Metrics of the operator")))) == families


@pytest.mark.parametrize(
    ("state", "conditions"),
    [
        ("stalled", {"Stalled": "True"}),
        ("progressing", {"Reconciling": "True"}),
        ("ready", {"Ready": "True"}),
        ("idle", {"Ready": "ScaledToZero"}),
        ("unready", {}),
    ],
)
def test_the_states_of_the_metric_are_explained(state: str, conditions: dict[str, str]) -> None:
    made = [
        {"type": kind, "status": "True" if value == "True" else "False", "reason": value}
        for kind, value in conditions.items()
    ]
    assert state_of({"conditions": made}) == state
    assert f"`{state}`" in section("Metrics of the operator")


# What restarts pods


def fields() -> dict[str, Effect]:
    """The fields that the table names, with the effect of each."""
    found: dict[str, Effect] = {}
    for outcome, text in rows(section("What restarts pods")):
        (effect,) = (effect for said, effect in OUTCOMES.items() if outcome.startswith(said))
        found |= dict.fromkeys(CODE.findall(text), effect)
    return found


def told(path: str) -> Effect | None:
    """What the table says of a field, by its longest prefix there."""
    table, steps = fields(), path.replace("[]", "").split(".")
    prefixes = (".".join(steps[:length]) for length in range(len(steps), 0, -1))
    return next((table[prefix] for prefix in prefixes if prefix in table), None)


@pytest.mark.parametrize("row", EFFECTS, ids=str)
def test_the_table_says_what_a_change_does(row: SpecEffect) -> None:
    assert told(row.path) == row.effect


def test_the_table_names_no_field_that_is_not_there() -> None:
    paths = [row.path.replace("[]", "") for row in EFFECTS]
    known = {path[:end] for path in paths for end in _ends(path)}
    assert set(fields()) <= known


def _ends(path: str) -> list[int]:
    return [match.start() for match in re.finditer(r"\.|$", path)]


# Examples and snippets


def test_each_example_is_listed() -> None:
    listed = re.findall(r"\(\.\./manifests/examples/([\w.-]+)\)", section("A first fleet"))
    assert set(listed) == {path.name for path in EXAMPLES}


@pytest.mark.parametrize("text", blocks("yaml"), ids=lambda text: " ".join(text.split())[:40])
def test_a_part_of_a_spec_is_valid(text: str) -> None:
    part: dict[str, Any] = yaml.safe_load(text)
    assert part.keys() == {"spec"}
    parse(manifest(changed(MINIMAL, part["spec"])))


def test_the_table_of_kubectl_is_the_one_that_an_api_server_gave() -> None:
    _, _, table = (ROOT / "docs" / "status-table.txt").read_text().partition("\n")
    assert table.strip() in section("A first fleet")


def shell_lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def test_the_files_that_commands_name_exist() -> None:
    named = [
        word
        for line in shell_lines()
        for word in line.split()
        if word.startswith(("manifests/", "charts/"))
    ]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("program", "app"), [("sampler", sampler_app), ("sampler-operator", operator_app)]
)
def test_our_own_commands_have_the_options_that_are_shown(program: str, app: typer.Typer) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = "\n".join(shell_lines())
    shown = [
        line.split() for line in re.findall(rf"(?:^|-- ){program} (\w.*)$", text, re.MULTILINE)
    ]
    assert shown
    for command, *words in shown:
        options = {name for parameter in commands[command].params for name in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


def test_what_is_waited_for_is_a_condition() -> None:
    waited = re.findall(r"--for=condition=(\w+)", PAGE)
    assert waited
    assert set(waited) <= set(ConditionType)


# The architecture


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    _, _, table = text.partition("\n## Where to find what\n")
    missing = []
    for _, place in rows(table):
        package = ""
        for part in place.split(";"):
            named = CODE.findall(part)
            if re.match(r" ?`\w+`:", part):
                package = named.pop(0)
            missing += [name for name in named if not _is_in(package, name)]
    assert missing == []


def _is_in(package: str, name: str) -> bool:
    folders = [ROOT, ROOT / "client", ROOT / "operator", ROOT / "sampler_server"]
    folders += [folder / package for folder in folders]
    return " " in name or any((folder / name).exists() for folder in folders)
