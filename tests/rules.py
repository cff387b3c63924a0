"""The rules of docs/semantics.md, the tests that hold them, and what no test holds, and why.

Read from the text of page and tests, so that no test has to be imported. ``python -m tests.rules``
prints the table of rules, samplers and tests.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.samplers import SAMPLERS

__all__ = [
    "NOT_TESTED",
    "PAGE",
    "SHARED",
    "Rule",
    "RuleTest",
    "blanks",
    "landed_features",
    "lines_with_rules",
    "read_rules",
    "read_tests",
    "rules_of",
    "table",
]

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "semantics.md"

_FEATURE = re.compile(r"^\| `(\w+)` \| .+ \| (here|in work|later) \|$", re.MULTILINE)
_LINE = re.compile(r"^- \*\*S", re.MULTILINE)
_RULE = re.compile(r"^- \*\*(S\d+\.\d+)\*\* `(\w+)` (.+(?:\n  .+)*)$", re.MULTILINE)

_ONE_PROCESS = "in this process there is no file that another process may not read"
_ONE_BASE = "a sampler of this process has one engine: what becomes of its calls is S10.25"
_NO_REPLICA = "the engine is part of this process: neither connections nor replicas can be lost"

_LOCAL = ("torch", "torch-tp2", "vllm", "vllm-tp2")

NOT_TESTED: Final[Mapping[tuple[str, str], str]] = {
    **{("S10.15", kind): _ONE_PROCESS for kind in _LOCAL},
    **{("S10.18", kind): _ONE_BASE for kind in _LOCAL},
    **{(f"S12.{n}", kind): _NO_REPLICA for n in range(1, 10) for kind in _LOCAL},
}
"""(rule, sampler) to the reason why no test holds the rule for that sampler."""

_BASE_CLASS = "of SamplerBase, which every sampler is: its backend is a stand-in that records"
_ERRORS = "of the classes of errors, which all samplers raise"
_DIGEST = "of the function that all samplers know an adapter by"
_END = "of the function by which every sampler that continues looks for an end"

SHARED: Final[Mapping[str, str]] = {
    "test_a_model_and_its_state_dict_have_the_digest_of_their_directory": _DIGEST,
    "test_a_group_is_prompt_and_revision_or_an_explicit_key": _BASE_CLASS,
    "test_a_missing_logprob_is_an_error": _BASE_CLASS,
    "test_truncated_logprobs_are_warned_of_once": _BASE_CLASS,
    "test_leaving_the_loop_cancels_what_is_unfinished": _BASE_CLASS,
    "test_errors_have_a_code_and_survive_pickling": _ERRORS,
    "test_time_limits_say_so_in_their_name": _ERRORS,
    "test_delivered_tokens_are_searched_for_their_end": _END,
}
"""Tests that run once and count for every sampler, with what of all samplers they test."""

_GIVEN_A_SAMPLER = {"sampler", "second_sampler", "own_sampler", "kind", "kinds"}


class _Marker(Protocol):
    @property
    def args(self) -> tuple[str, ...]: ...
    @property
    def kwargs(self) -> Mapping[str, tuple[str, ...]]: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its number, the feature that brings it, and its text."""

    number: str
    since: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleTest:
    """A test and the rules and samplers of its markers."""

    name: str
    numbers: tuple[str, ...]
    samplers: tuple[str, ...]
    is_shared: bool
    """It names no samplers and is given none: it runs once, whatever samplers there are."""


def lines_with_rules(page: str | None = None) -> int:
    """Lines of the page that look like a rule, whether they can be read as one or not."""
    return len(_LINE.findall(PAGE.read_text(encoding="utf-8") if page is None else page))


def read_rules(page: str | None = None) -> list[Rule]:
    """The rules of the page, in its order."""
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    return [
        Rule(number, since, " ".join(words.split())) for number, since, words in _RULE.findall(text)
    ]


def landed_features(page: str | None = None) -> dict[str, bool]:
    """Features of the page, and whether they are here."""
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    return {name: state == "here" for name, state in _FEATURE.findall(text)}


def rules_of(markers: Iterable[_Marker]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Rule numbers and samplers (none: all) of the markers on one test.

    ``only=("remote",)`` means every client of servers, whatever engine these have: for tests that
    do not depend on it. ``only=("engine-torch",)`` means all samplers with that engine.
    """
    numbers: list[str] = []
    only: list[str] = []
    for marker in markers:
        numbers += marker.args
        for name in marker.kwargs.get("only", ()):
            if name == "remote":
                only += [kind for kind in SAMPLERS if kind.startswith("remote-")]
            elif name.startswith("engine-"):
                engine = name.removeprefix("engine-")
                only += [kind for kind in SAMPLERS if engine in kind.split("-")]
            else:
                only.append(name)
    return tuple(numbers), tuple(only)


@dataclass(frozen=True, slots=True)
class _Written:
    """A marker as it stands in the source."""

    args: tuple[str, ...]
    kwargs: dict[str, tuple[str, ...]]


def _written(nodes: Iterable[ast.expr]) -> list[_Written]:
    found = []
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rule":
            args = tuple(ast.literal_eval(each) for each in node.args)
            keywords = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
            found.append(_Written(args, keywords))
    return found


def read_tests(folder: Path | None = None) -> list[RuleTest]:
    """All tests below ``folder`` (default: tests/) that carry a rule."""
    root = folder or ROOT / "tests"
    found = []
    for path in sorted(root.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                numbers, only = rules_of(_written(node.decorator_list))
                if numbers:
                    name = f"{path.relative_to(root)}::{node.name}"
                    given = {each.arg for each in node.args.args}
                    is_shared = not only and not given & _GIVEN_A_SAMPLER
                    found.append(RuleTest(name, numbers, only or tuple(SAMPLERS), is_shared))
    return found


def table(rules: Iterable[Rule], tests: Iterable[RuleTest]) -> dict[tuple[str, str], list[str]]:
    """(rule, sampler) to the tests that hold it."""
    cells: dict[tuple[str, str], list[str]] = {
        (rule.number, sampler): [] for rule in rules for sampler in SAMPLERS
    }
    for test in tests:
        for number in test.numbers:
            for sampler in test.samplers:
                cells.setdefault((number, sampler), []).append(test.name)
    return cells


def blanks(
    rules: Iterable[Rule], tests: Iterable[RuleTest], features: Mapping[str, bool]
) -> list[str]:
    """Rules of features that are here, with a sampler for which neither test nor reason is."""
    found = list(rules)
    cells = table(found, tests)
    return [
        f"{rule.number} ({kind}): {rule.text}"
        for rule in found
        for kind in SAMPLERS
        if features[rule.since]
        and not cells[rule.number, kind]
        and (rule.number, kind) not in NOT_TESTED
    ]


if __name__ == "__main__":
    everything = read_rules()
    cells = table(everything, read_tests())
    for each in everything:
        print(f"{each.number} ({each.since}) {each.text}")
        for kind in SAMPLERS:
            cell = (each.number, kind)
            print(f"    {kind}: {', '.join(cells[cell]) or NOT_TESTED.get(cell, '-')}")
