"""What every row must reach, and whether it has. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.figures import Figures

__all__ = ["BEARABLE", "Goals", "Verdict", "judged"]

BEARABLE = 3
"""A machine that does other things at the same time is slow: only past so many times a goal of
seconds a row has failed. Counts are exact."""


@dataclass(frozen=True, slots=True)
class Goals:
    """Of a row; lost, duplicated, wrong tokens, wrong revision and cut streams are always 0.

    ``stall_s``: longest time without a token of any sequence; ``handed_over_s``: from the signal
    to a replica until its sequences have gone on elsewhere; ``recovery_s``: until all is as
    before. ``redone``: tokens of one sequence made twice; ``delivered_redone``: of those that the
    client had. ``continued``: sequences at least that went on elsewhere. ``may_be_gone``: the
    weights go away, and callers are told.
    """

    stall_s: float | None = None
    handed_over_s: float | None = None
    recovery_s: float | None = None
    redone: int | None = None
    delivered_redone: int | None = None
    continued: int = 0
    in_flight: int = 32
    may_be_gone: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """``failures`` fail a row; ``slow`` is past a goal of seconds, and bearable."""

    failures: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """For a table."""
        if self.failures:
            return "failed"
        return "slow" if self.slow else "ok"


def judged(goals: Goals, figures: Figures, recovery_s: float | None, observed: str) -> Verdict:
    """The verdict on a row."""
    slow: list[str] = []
    failed = [*_wrong_counts(goals, figures)]
    if not observed:
        failed.append("nothing shows that the fault has happened")
    seconds = (
        ("longest stall", figures.longest_stall_s, goals.stall_s),
        ("handed over after", figures.handed_over_s, goals.handed_over_s),
        ("recovery", recovery_s, goals.recovery_s),
    )
    for name, value, goal in seconds:
        if goal is None:
            continue
        if value is None:
            failed.append(f"{name}: nothing was measured, the goal is {goal:g} s")
        elif value > goal:
            told = f"{name} {value:g} s, the goal is {goal:g} s"
            (failed if value > BEARABLE * goal else slow).append(told)
    return Verdict(tuple(failed), tuple(slow))


def _wrong_counts(goals: Goals, figures: Figures) -> Iterator[str]:
    zero = {
        "lost": figures.lost,
        "duplicated": figures.duplicated,
        "wrong tokens": figures.wrong_tokens,
        "wrong revision": figures.wrong_revision,
        "HTTP streams refused": figures.http_refused,
        "HTTP streams cut": figures.http_cut,
    }
    if not goals.may_be_gone:
        zero["revision gone"] = figures.revision_gone
    yield from (f"{name}: {number}, the goal is 0" for name, number in zero.items() if number)
    most = (
        ("tokens redone", figures.tokens_redone_max, goals.redone),
        ("delivered tokens redone", figures.delivered_redone_max, goals.delivered_redone),
    )
    for name, number, goal in most:
        if goal is not None and number > goal:
            yield f"{name}: {number} of one sequence, the goal is {goal}"
    least = (
        ("in flight at the fault", figures.in_flight_at_fault, goals.in_flight),
        ("continued", figures.continued, goals.continued),
    )
    for name, number, goal in least:
        if number < goal:
            yield f"{name}: {number}, at least {goal} are needed for the row to prove anything"
