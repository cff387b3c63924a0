"""The README's table of what each engine can do, made of ``docs/engines.json``.

``python -m tests.engine_table`` writes it; ``tests/docs`` holds that it is the one of the record.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.engine_record import read_record
from tests.rules import NOT_TESTED

__all__ = ["COLUMNS", "MARKS", "README", "ROWS", "engine_table", "with_table"]

README: Final = Path(__file__).parents[1] / "README.md"
MARKS: Final = ("<!-- made by tests/engine_table.py of docs/engines.json -->\n", "<!-- end -->\n")

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "`torch`": ("torch", "remote-torch"),
    "`torch`, two ranks": ("torch-tp2",),
    "`vllm`": ("vllm", "remote-vllm"),
    "`vllm`, two ranks": ("vllm-tp2",),
}
"""Heading to the samplers that were run: in the caller's process, and through a server."""

ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "every logprob within 1e-4 of a plain forward pass (float32)": ("S4.1", "S4.8"),
    "logprobs of prompts, and the best k": ("S4.6", "S4.7", "S8.1"),
    "penalties, bias, truncation; stop strings, bad words": (
        *("S3.6", "S3.8", "S3.9", "S5.2", "S5.3", "S5.4", "S5.5", "S5.6", "S5.7"),
    ),
    "the same again with a seed": ("S6.1", "S6.2", "S6.3"),
    "base and several LoRA adapters in one moving batch": ("S10.5", "S10.6", "S10.14"),
    "streams; what is cancelled can be gone on with": ("S11.1", "S11.3", "S11.4", "S11.7"),
    "other base weights while sequences run": (
        *("S10.19", "S10.20", "S10.21", "S10.22", "S10.23", "S10.24"),
    ),
}
"""What an engine may be able to do, and the rules of docs/semantics.md that say so."""


def engine_table(record: Mapping[str, Any]) -> str:
    """The lines of the table. Raises ValueError for what a row cannot say in a word."""
    lines = [["", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    lines += [
        [text, *(_can(record, kinds, numbers) for kinds in COLUMNS.values())]
        for text, numbers in ROWS.items()
    ]
    of = [[record[kind] for kind in kinds] for kinds in COLUMNS.values()]
    lines.append(["kinds of logprobs of one engine", *(_modes(each[0]) for each in of)])
    lines.append(["what goes on elsewhere after a loss", *(_continued(each[0]) for each in of)])
    lines.append(
        [
            "tests that passed, in process and through a server",
            *(", ".join(str(each["tests"]["passed"]) for each in column) for column in of),
        ]
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _can(record: Mapping[str, Any], kinds: tuple[str, ...], numbers: tuple[str, ...]) -> str:
    answers = set()
    for kind in kinds:
        held = set(record[kind]["held"].split())
        if held.issuperset(numbers):
            answers.add("yes")
        elif held.isdisjoint(numbers) and all((n, kind) in NOT_TESTED for n in numbers):
            answers.add("no")
        else:
            raise ValueError(f"{kind} does not hold {sorted(set(numbers) - held)}")
    if len(answers) != 1:
        raise ValueError(f"{kinds} differ in {numbers}")
    return answers.pop()


def _modes(of: Mapping[str, Any]) -> str:
    modes = of["traits"]["logprobs_modes"]
    return " and ".join(modes) if len(modes) > 1 else "one, chosen at its start"


def _continued(of: Mapping[str, Any]) -> str:
    return "the same tokens" if of["traits"]["is_reproducible"] else "a new draw, marked as such"


def with_table(text: str, record: Mapping[str, Any]) -> str:
    """The README's text with the table of a record. Raises ValueError without its marks."""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {''.join(MARKS)}")
    return f"{before}{begin}{engine_table(record)}{end}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8"), read_record()), "utf-8")
