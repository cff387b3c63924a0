"""What a row has shown: the journals of its clients against the ledgers of its replicas. Pure."""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from tests import ledger
from tests.faults.journal import Arrived, Asked, Delivered, Ended, Event, Streamed

from sampler_api.errors import RevisionGone
from sampler_core.seeds import child_seed
from sampler_server.engines.sim.ledger import LedgerRecord
from sampler_server.engines.sim.tokens import sim_sequence

__all__ = ["Evidence", "Figures", "Flow", "flow_of", "measured", "pod_of"]

Sequence_ = tuple[int, int]
"""Seed of the call, child."""


@dataclass(frozen=True)
class Evidence:
    """All that a row left behind.

    ``events`` of all its clients; ``ledgers`` by pod. ``hit``: the pods that the fault at
    time ``fault_at`` took, ``signals``: when pods that were told to leave were told.
    ``bases``: those that calls may have been answered by. ``abandoned_at``: when a client was
    killed on purpose; nobody waits for what it had asked for.
    """

    events: Sequence[Event]
    ledgers: Mapping[str, Sequence[LedgerRecord]]
    fault_at: float
    hit: frozenset[str] = frozenset()
    signals: Mapping[str, float] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    abandoned_at: float | None = None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a row; problems are sentences about the counts."""

    requests: int = 0
    in_flight_at_fault: int = 0
    continued: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong_tokens: int = 0
    wrong_revision: int = 0
    revision_gone: int = 0
    tokens_redone_max: int = 0
    delivered_redone_max: int = 0
    longest_stall_s: float | None = None
    handed_over_s: float | None = None
    http_streams: int = 0
    http_refused: int = 0
    http_cut: int = 0
    problems: tuple[str, ...] = ()


class Flow:
    """When the tokens of one sequence arrived, and from where."""

    def __init__(self, asked_at: float, length: int) -> None:
        self.asked_at = asked_at
        self.length = length
        self.arrivals: list[tuple[float, str, int]] = []
        """Time, replica, tokens there were then."""
        self.ended_at: float | None = None

    def tokens_at(self, at: float) -> int:
        """How many had arrived by then."""
        return max((total for when, _, total in self.arrivals if when <= at), default=0)

    def replica_at(self, at: float) -> str:
        """Which replica the last token before then came from; empty before the first."""
        return next((name for when, name, _ in reversed(self.arrivals) if when <= at), "")

    def is_in_flight(self, at: float) -> bool:
        """It had begun to arrive by then, and was not complete."""
        return 0 < self.tokens_at(at) < self.length and (
            self.ended_at is None or self.ended_at > at
        )

    def gaps(self, since: float) -> Iterator[float]:
        """Seconds without a token, of gaps that ended after ``since``; the wait for the first
        token is one."""
        before = self.asked_at
        ends = [at for at, _, _ in self.arrivals]
        if self.ended_at is not None:
            ends.append(self.ended_at)
        for at in ends:
            if at > since:
                yield at - before
            before = at

    def went_on_after(self, replica: str) -> float | None:
        """When the first token came from another replica, behind the last one of ``replica``."""
        names = [pod_of(name) for _, name, _ in self.arrivals]
        if replica not in names:
            return None
        last = len(names) - 1 - names[::-1].index(replica)
        return self.arrivals[last + 1][0] if last + 1 < len(names) else None


def pod_of(replica: str) -> str:
    """Of several engines in a pod each has a name of its own."""
    return replica.partition(":")[0]


def flow_of(events: Iterable[Event]) -> dict[Sequence_, Flow]:
    """The flow of every sequence that was asked for."""
    flows: dict[Sequence_, Flow] = {}
    for event in events:
        if isinstance(event, Asked):
            for child in range(event.n):
                flows[event.seed, child] = Flow(event.at, event.length)
        elif isinstance(event, Arrived):
            for seed, child, total in event.totals:
                flows[seed, child].arrivals.append((event.at, event.replica, total))
        elif isinstance(event, Ended):
            for child in range(len(event.sequences)):
                flow = flows.get((event.seed, child))
                if flow is None:
                    # One more than was asked for; the ledger's checker tells.
                    continue
                is_whole = bool(flow.arrivals) and flow.arrivals[-1][2] >= flow.length
                # Its siblings may have kept the call open.
                flow.ended_at = flow.arrivals[-1][0] if is_whole else event.at
    return flows


def measured(evidence: Evidence) -> Figures:
    """The figures of a row."""
    flows = flow_of(evidence.events)
    at = evidence.fault_at
    in_flight = {
        key
        for key, flow in flows.items()
        if flow.is_in_flight(at)
        and (not evidence.hit or pod_of(flow.replica_at(at)) in evidence.hit)
    }
    calls = {event.seed: event for event in evidence.events if isinstance(event, Asked)}
    answers = {event.seed: event for event in evidence.events if isinstance(event, Ended)}
    found, errors, gone = _checked(calls, answers, evidence)
    sequences = {
        (seed, child): sequence
        for seed, answer in answers.items()
        for child, sequence in enumerate(answer.sequences)
    }
    streams = [event for event in evidence.events if isinstance(event, Streamed)]
    cut = [s for s in streams if s.problem and not s.refused]
    refused = [f"a stream was refused: {s.problem}" for s in streams if s.refused]
    problems = (
        *found.lost,
        *errors,
        *found.duplicated,
        *found.wrong_tokens,
        *found.wrong_revision,
        *refused,
        *(f"a stream was cut after {s.tokens} tokens: {s.problem}" for s in cut),
    )
    return Figures(
        requests=len(flows),
        in_flight_at_fault=len(in_flight),
        continued=sum(
            len(sequence.spans) > 1
            for (seed, _), sequence in sequences.items()
            if answers[seed].at > at
        ),
        lost=len(found.lost),
        duplicated=len(found.duplicated),
        wrong_tokens=len(found.wrong_tokens),
        wrong_revision=len(found.wrong_revision),
        revision_gone=gone,
        tokens_redone_max=found.redone_most,
        delivered_redone_max=_delivered_redone(calls, sequences, evidence.ledgers),
        longest_stall_s=round(max((g for f in flows.values() for g in f.gaps(at)), default=0.0), 2),
        handed_over_s=_handed_over(flows, sequences, evidence.signals),
        http_streams=len(streams),
        http_refused=len(refused),
        http_cut=len(cut),
        problems=problems,
    )


def _checked(
    calls: Mapping[int, Asked], answers: Mapping[int, Ended], evidence: Evidence
) -> tuple[ledger.Violations, list[str], int]:
    """Violations, what sequences that failed were told, and how many of them that their weights
    are gone."""
    asked: list[ledger.Asked] = []
    got: list[ledger.Got] = []
    revisions: list[str] = []
    wrong: list[str] = []
    errors: list[str] = []
    gone = 0
    for seed, call in calls.items():
        answer = answers.get(seed)
        if answer is None and evidence.abandoned_at is not None and call.at < evidence.abandoned_at:
            continue
        delivered = answer.sequences if answer is not None else ()
        for child in range(max(call.n, len(delivered))):
            one = delivered[child] if child < len(delivered) else None
            base = evidence.bases[0] if one is None or not one.base else one.base
            wanted = ledger.Asked(
                call.prompt,
                child_seed(seed, 0, child),
                base,
                None if one is None else one.adapter,
                call.length,
            )
            if child < call.n:
                asked.append(wanted)
            if one is None:
                continue
            if base not in evidence.bases:
                revisions.append(f"call {seed}, child {child}: from {base}, which nobody served")
            is_gone = one.error == RevisionGone.code
            gone += is_gone
            tokens = struct.unpack(f"<{len(one.tokens) // 4}i", one.tokens)
            if one.error and not is_gone:
                errors.append(f"call {seed}, child {child}: {one.error}: {one.message}")
            elif is_gone or tokens:
                got.append(ledger.Got(wanted, tokens, is_partial=is_gone))
            if not _has_its_logprobs(one, wanted):
                wrong.append(f"call {seed}, child {child}: logprobs of other tokens")
            if not _covers(one):
                wrong.append(f"call {seed}, child {child}: its segments leave gaps: {one.spans}")
    records = [record for each in evidence.ledgers.values() for record in each]
    found = ledger.check(records, asked, got)
    found.wrong_revision.extend(revisions)
    found.wrong_tokens.extend(wrong)
    return found, errors, gone


def _has_its_logprobs(one: Delivered, asked: ledger.Asked) -> bool:
    length = len(one.tokens) // 4
    if not length:
        return not one.logprobs
    _, wanted = sim_sequence(asked.prompt, asked.seed, asked.base, asked.adapter, length)
    return one.logprobs == struct.pack(f"<{length}f", *wanted)


def _covers(one: Delivered) -> bool:
    """Its segments follow each other without a gap and have every token."""
    ends = [0, *(span.end for span in one.spans)]
    return [span.start for span in one.spans] == ends[:-1] and ends[-1] == len(one.tokens) // 4


def _delivered_redone(
    calls: Mapping[int, Asked],
    sequences: Mapping[Sequence_, Delivered],
    ledgers: Mapping[str, Sequence[LedgerRecord]],
) -> int:
    """Most tokens of one sequence that were delivered, and made once more behind that: an attempt
    must begin where its segment does."""
    begun: dict[tuple[str, tuple[int, int]], dict[int, list[int]]] = defaultdict(dict)
    for replica, records in ledgers.items():
        for record in records:
            if record.seed is None:
                continue
            attempts = begun[replica, (record.prompt, record.seed)]
            end = record.offset + len(record.tokens)
            first, last = attempts.get(record.key, [record.offset, end])
            attempts[record.key] = [min(first, record.offset), max(last, end)]
    most = 0
    for (seed, child), one in sequences.items():
        for span in one.spans[1:]:
            identity = ledger.identity_of(calls[seed].prompt, child_seed(seed, 0, child))
            attempts = begun.get((pod_of(span.replica), identity), {})
            starts = [first for first, end in attempts.values() if first <= span.start < end]
            # Of several attempts there, the present one is that which began last.
            most = max(most, span.start - max(starts, default=span.start))
    return most


def _handed_over(
    flows: Mapping[Sequence_, Flow],
    sequences: Mapping[Sequence_, Delivered],
    signals: Mapping[str, float],
) -> float | None:
    """Longest time from the signal to a replica until a sequence that had to leave it went on."""
    waits = [
        went_on - signalled
        for replica, signalled in signals.items()
        for key in left(sequences, replica)
        if (went_on := flows[key].went_on_after(replica)) is not None
    ]
    return round(max(waits), 2) if waits else None


def left(sequences: Mapping[Sequence_, Delivered], replica: str) -> Collection[Sequence_]:
    """Sequences that began to run at a replica and ended elsewhere."""
    return [
        key
        for key, one in sequences.items()
        if one.spans
        and any(pod_of(span.replica) == replica for span in one.spans)
        and pod_of(one.spans[-1].replica) != replica
    ]
