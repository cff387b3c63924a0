"""What a fault row must reach, and the page that is made of all rows."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.faults.figures import Figures
from tests.faults.goals import Goals, judged
from tests.faults.journal import Arrived, Asked, JournalReader, JournalWriter, decode_events
from tests.faults.load import call_length, call_prompt, seed_of_prompt
from tests.faults.matrix import renewed
from tests.faults.render import rendered
from tests.faults.rows import CONTROL, ROWS

GOALS = Goals(stall_s=2, handed_over_s=3, recovery_s=20, redone=32, delivered_redone=0, continued=1)
GOOD = Figures(
    requests=200,
    in_flight_at_fault=40,
    continued=40,
    tokens_redone_max=32,
    longest_stall_s=2.0,
    handed_over_s=3.0,
)


def word(goals: Goals = GOALS, recovery_s: float | None = 20, **changes: Any) -> str:
    figures = msgspec.structs.replace(GOOD, **changes)
    return judged(goals, figures, recovery_s, "seen").word


def test_a_row_at_its_goals_is_ok() -> None:
    assert word() == "ok"


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": 1},
        {"duplicated": 1},
        {"wrong_tokens": 1},
        {"wrong_revision": 1},
        {"revision_gone": 1},
        {"http_refused": 1},
        {"http_cut": 1},
        {"tokens_redone_max": 33},
        {"delivered_redone_max": 1},
        {"in_flight_at_fault": 31},
        {"continued": 0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_counts_are_exact(changes: dict[str, Any]) -> None:
    assert word(**changes) == "failed"


@pytest.mark.parametrize("name", ["longest_stall_s", "handed_over_s"])
def test_seconds_are_slow_past_the_goal_and_failed_past_three_times_of_it(name: str) -> None:
    goal = getattr(GOOD, name)
    assert word(**{name: goal + 0.1}) == "slow"
    assert word(**{name: 3 * goal}) == "slow"
    assert word(**{name: 3 * goal + 0.1}) == "failed"
    nothing: dict[str, Any] = {name: None}
    assert word(**nothing) == "failed"


def test_the_recovery_is_judged_like_other_seconds() -> None:
    assert [word(recovery_s=seconds) for seconds in (20, 21, 61, None)] == [
        "ok",
        "slow",
        "failed",
        "failed",
    ]


def test_a_fault_that_nobody_has_seen_proves_nothing() -> None:
    assert judged(GOALS, GOOD, 1.0, "").word == "failed"


def test_weights_may_be_gone_only_where_the_row_takes_them_away() -> None:
    gone = Goals(continued=1, may_be_gone=True)
    assert word(gone, revision_gone=7) == "ok"


def test_rows_have_names_of_fleets_and_a_control_is_among_them() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert ROWS[0] is CONTROL
    # The tier runs a third of them.
    assert len(ROWS) / 4 <= sum(row.in_tier for row in ROWS) <= len(ROWS) / 2


def row(**changes: Any) -> dict[str, Any]:
    figures = msgspec.structs.asdict(GOOD)
    figures.pop("problems")
    told = {
        "name": "killed",
        "date": "2026-11-26",
        "control_stall_s": 0.34,
        "verdict": "ok",
        "failures": [],
        "slow": [],
        "fault_observed": "exit code 137",
    }
    return {"scenario": "SIGKILL to a pod", **figures, "recovery_s": 9.04, **told, **changes}


def page(*rows: dict[str, Any]) -> str:
    return rendered({"machine": "two nodes", "calls": 32, "samples": 4, "rows": rows})


def test_the_page_has_a_line_for_each_row() -> None:
    text = page(row(), row(scenario="a pod is deleted", http_streams=60))
    [killed] = [line for line in text.splitlines() if line.startswith("| SIGKILL to a pod | 200")]
    assert killed.endswith("| 32 | 2.0 s | 0.3 s | 3.0 s | 9.0 s |  | ok |")
    assert "| a pod is deleted | exit code 137 |" in text
    assert "| 60 of 60 | ok |" in text
    assert "2 of 2 rows are at their goals." in text
    assert "Past a goal" not in text
    assert "last played 2026-11-26." in text
    days = [row(date=f"2026-11-{day}") for day in (28, 26, 27)]
    assert "last played 2026-11-26 to 2026-11-28." in page(*days)


def test_the_page_says_plainly_what_has_failed() -> None:
    text = page(row(), row(scenario="x", verdict="failed", failures=["lost: 1, the goal is 0"]))
    assert "1 of 2 rows are at their goals, **1 have failed**." in text
    assert "- x: lost: 1, the goal is 0" in text


def test_rows_that_were_played_take_the_place_of_their_former_selves() -> None:
    order = ["control", "killed", "deleted"]
    former = renewed({}, [row(name="control"), row(name="killed"), row(name="gone")], order, "x")
    again = [row(name="control", longest_stall_s=0.5), row(name="deleted")]
    now = renewed(former, again, order, "y")
    assert [each["name"] for each in now["rows"]] == order
    assert [each["control_stall_s"] for each in now["rows"]] == [0.5, 2.0, 0.5]
    assert now["machine"] == "y"
    other_form = {**former, "form": 0}
    assert [each["name"] for each in renewed(other_form, again, order, "y")["rows"]] == [
        "control",
        "deleted",
    ]


def test_the_page_in_docs_is_made_of_the_rows_beside_it() -> None:
    docs = Path(__file__).parent.parent.parent / "docs"
    matrix = json.loads((docs / "fault-matrix.json").read_text())
    assert (docs / "fault-matrix.md").read_text() == rendered(matrix)
    scenarios = {each.name: each.scenario for each in ROWS}
    assert {each["name"]: each["scenario"] for each in matrix["rows"]} == scenarios


def test_a_journal_is_read_while_it_is_written_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    reader, writer = JournalReader(path), JournalWriter(path)
    assert reader.events == []
    asked = Asked(1.0, (1, 2), 3, 4, 5)
    writer.write(asked)
    assert reader.events == [asked]
    line = path.read_bytes()
    with path.open("ab") as file:
        file.write(line[:20])
    assert reader.events == [asked]
    with path.open("ab") as file:
        file.write(b"\n")
    arrived = Arrived(2.0, "a", ((3, 0, 1),))
    writer.write(arrived)
    assert reader.events == [asked, arrived]
    assert list(decode_events([b"", line.strip(), b"{"])) == [asked]


def test_prompts_tell_calls_apart_and_calls_end_apart() -> None:
    seeds = [run * 1_000_000 + call for run in range(3) for call in range(500)]
    prompts = [call_prompt(seed) for seed in seeds]
    assert len(set(prompts)) == len(seeds)
    assert [seed_of_prompt(np.array(prompt, np.int32)) for prompt in prompts] == seeds
    assert len({call_length(seed) for seed in seeds[:32]}) > 16
