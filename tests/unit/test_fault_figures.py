"""The figures of a fault row: every violation that is seeded shows, and nothing else."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.faults.figures import Evidence, Figures, measured
from tests.faults.journal import Arrived, Asked, Delivered, Ended, Event, Span, Streamed

from sampler_core.seeds import child_seed
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.ledger import LedgerRecord, prompt_digest
from sampler_server.engines.sim.tokens import sim_sequence, weights_state

BASE, OTHER = base_digest("policy"), base_digest("other")
PROMPT = (1, 2, 3)
CALL, N, LENGTH, MOVED_AT = 5, 2, 12, 7
FAULT = 10.0


def made(child: int, base: str = BASE) -> tuple[list[int], list[float]]:
    return sim_sequence(PROMPT, child_seed(CALL, 0, child), base, None, LENGTH)


def record(
    child: int, offset: int, tokens: Sequence[int], key: int, base: str = BASE
) -> LedgerRecord:
    seed = child_seed(CALL, 0, child)
    prompt = prompt_digest(np.array(PROMPT, np.int32))
    return LedgerRecord(prompt, weights_state(base, None), key, 0, seed, offset, tuple(tokens))


def delivered(child: int, base: str = BASE) -> Delivered:
    tokens, logprobs = made(child, base)
    return Delivered(
        struct.pack(f"<{LENGTH}i", *tokens),
        struct.pack(f"<{LENGTH}f", *logprobs),
        base,
        None,
        (Span("a", 0, MOVED_AT, "lost"), Span("b", MOVED_AT, LENGTH, "finished")),
    )


ANSWERS = (delivered(0), delivered(1))
EVENTS: tuple[Event, ...] = (
    Asked(8.0, PROMPT, CALL, N, LENGTH),
    Arrived(8.5, "a", ((CALL, 0, 4), (CALL, 1, 5))),
    Arrived(9.5, "a", ((CALL, 0, MOVED_AT), (CALL, 1, MOVED_AT))),
    Arrived(11.25, "b", ((CALL, 0, 9), (CALL, 1, 8))),
    Arrived(11.5, "b", ((CALL, 0, LENGTH), (CALL, 1, LENGTH))),
    Ended(11.5, CALL, ANSWERS),
)
LEDGERS = {
    # Two tokens more than were delivered: they are lost with the replica, and made again.
    "a": [record(child, 0, made(child)[0][: MOVED_AT + 2], child) for child in range(N)],
    "b": [record(child, MOVED_AT, made(child)[0][MOVED_AT:], child) for child in range(N)],
}
EVIDENCE = Evidence(EVENTS, LEDGERS, FAULT, frozenset({"a"}), {}, (BASE,))


def with_answers(*answers: Delivered) -> Evidence:
    return replace(EVIDENCE, events=[*EVENTS[:-1], Ended(11.5, CALL, answers)])


def with_tokens(change: Callable[[list[int]], list[int]]) -> Evidence:
    tokens = change(made(0)[0])
    data = struct.pack(f"<{len(tokens)}i", *tokens)
    spans = (ANSWERS[0].spans[0], Span("b", MOVED_AT, len(tokens), "finished"))
    wrong = msgspec.structs.replace(ANSWERS[0], tokens=data, spans=spans)
    return with_answers(wrong, ANSWERS[1])


def counts(found: Figures) -> dict[str, int]:
    names = ("lost", "duplicated", "wrong_tokens", "wrong_revision", "revision_gone")
    return {name: value for name in names if (value := getattr(found, name))}


def test_sequences_that_went_on_elsewhere_are_in_flight_and_continued() -> None:
    found = measured(EVIDENCE)
    assert (found.requests, found.in_flight_at_fault, found.continued) == (2, 2, 2)
    assert counts(found) == {}
    assert found.problems == ()


def test_what_moved_before_the_fault_is_not_continued_by_it() -> None:
    assert measured(replace(EVIDENCE, fault_at=12.0)).continued == 0


def test_tokens_that_died_with_their_replica_are_redone_and_no_delivered_ones() -> None:
    found = measured(EVIDENCE)
    assert (found.tokens_redone_max, found.delivered_redone_max) == (2, 0)


def test_an_attempt_that_begins_before_what_was_delivered_is_seen() -> None:
    again = [record(0, MOVED_AT - 3, made(0)[0][MOVED_AT - 3 :], 9), *LEDGERS["b"][1:]]
    found = measured(replace(EVIDENCE, ledgers={**LEDGERS, "b": again}))
    assert (found.tokens_redone_max, found.delivered_redone_max) == (5, 3)


def test_the_longest_stall_is_the_longest_wait_that_ended_after_the_fault() -> None:
    assert measured(EVIDENCE).longest_stall_s == 1.75
    assert measured(replace(EVIDENCE, fault_at=11.3)).longest_stall_s == 0.25


def test_only_sequences_of_replicas_that_are_hit_are_in_flight_at_the_fault() -> None:
    assert measured(replace(EVIDENCE, hit=frozenset({"b"}))).in_flight_at_fault == 0
    assert measured(replace(EVIDENCE, hit=frozenset())).in_flight_at_fault == 2


def test_a_hand_over_lasts_from_the_signal_to_the_first_token_from_elsewhere() -> None:
    assert measured(EVIDENCE).handed_over_s is None
    found = measured(replace(EVIDENCE, signals={"a": 10.0, "c": 10.0}))
    assert found.handed_over_s == 1.25


def test_a_call_that_was_never_answered_is_lost() -> None:
    found = measured(replace(EVIDENCE, events=EVENTS[:-1]))
    assert counts(found) == {"lost": N}


def test_what_a_client_asked_for_that_was_killed_on_purpose_is_not_lost() -> None:
    found = measured(replace(EVIDENCE, events=EVENTS[:-1], abandoned_at=10.0))
    assert counts(found) == {}


def test_a_missing_sequence_is_lost() -> None:
    assert counts(measured(with_answers(ANSWERS[0]))) == {"lost": 1}


def test_a_sequence_that_failed_is_lost_and_says_why() -> None:
    failed = Delivered(b"", b"", BASE, None, (), "poison_request", "three engines failed")
    found = measured(with_answers(ANSWERS[0], failed))
    assert counts(found) == {"lost": 1}
    assert any("three engines failed" in problem for problem in found.problems)


def test_a_sequence_too_many_is_duplicated() -> None:
    assert measured(with_answers(*ANSWERS, ANSWERS[1])).duplicated == 1


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        pytest.param(lambda t: t[:-1], {"lost", "wrong_tokens"}, id="the end is missing"),
        pytest.param(lambda t: [*t, t[-1]], {"duplicated", "wrong_tokens"}, id="a token too many"),
        pytest.param(lambda t: [*t[:4], t[4] ^ 1, *t[5:]], {"wrong_tokens"}, id="another token"),
        pytest.param(lambda t: [*t[:4], *t[5:], 0], {"wrong_tokens"}, id="a token left out"),
    ],
)
def test_wrong_tokens_are_found(change: Callable[[list[int]], list[int]], kinds: set[str]) -> None:
    assert set(counts(measured(with_tokens(change)))) == kinds


def test_tokens_made_behind_a_wrong_prefix_are_found() -> None:
    kept = made(0)[0][:MOVED_AT]
    later, values = sim_sequence(
        (*PROMPT, *kept, 9), child_seed(CALL, 0, 0), BASE, None, LENGTH - MOVED_AT
    )
    ledgers = {**LEDGERS, "b": [record(0, MOVED_AT, later, 3), LEDGERS["b"][1]]}
    wrong = msgspec.structs.replace(
        ANSWERS[0],
        tokens=struct.pack(f"<{LENGTH}i", *kept, *later),
        logprobs=struct.pack(f"<{LENGTH}f", *made(0)[1][:MOVED_AT], *values),
    )
    found = measured(replace(with_answers(wrong, ANSWERS[1]), ledgers=ledgers))
    assert set(counts(found)) == {"wrong_tokens"}


def test_wrong_logprobs_are_found() -> None:
    wrong = msgspec.structs.replace(ANSWERS[0], logprobs=ANSWERS[1].logprobs)
    assert counts(measured(with_answers(wrong, ANSWERS[1]))) == {"wrong_tokens": 1}


def test_segments_that_leave_a_gap_are_found() -> None:
    spans = (Span("a", 0, 5, "lost"), Span("b", MOVED_AT, LENGTH, "finished"))
    wrong = msgspec.structs.replace(ANSWERS[0], spans=spans)
    assert counts(measured(with_answers(wrong, ANSWERS[1]))) == {"wrong_tokens": 1}


def test_an_answer_by_weights_that_nobody_was_asked_for_is_a_wrong_revision() -> None:
    ledgers = {**LEDGERS, "c": [record(0, 0, made(0, OTHER)[0], 1, OTHER)]}
    evidence = replace(with_answers(delivered(0, OTHER), ANSWERS[1]), ledgers=ledgers)
    assert counts(measured(evidence)) == {"wrong_revision": 1}
    assert counts(measured(replace(evidence, bases=(BASE, OTHER)))) == {}


def test_tokens_of_other_weights_than_they_say_are_a_wrong_revision() -> None:
    tokens, logprobs = made(0, OTHER)
    ledgers = {**LEDGERS, "c": [record(0, 0, tokens, 1, OTHER)]}
    wrong = msgspec.structs.replace(
        ANSWERS[0],
        tokens=struct.pack(f"<{LENGTH}i", *tokens),
        logprobs=struct.pack(f"<{LENGTH}f", *logprobs),
    )
    found = measured(replace(with_answers(wrong, ANSWERS[1]), ledgers=ledgers))
    assert found.wrong_revision == 1


def test_sequences_whose_weights_are_gone_are_counted_and_not_lost() -> None:
    gone = msgspec.structs.replace(
        ANSWERS[0],
        tokens=ANSWERS[0].tokens[: MOVED_AT * 4],
        logprobs=ANSWERS[0].logprobs[: MOVED_AT * 4],
        spans=ANSWERS[0].spans[:1],
        error="revision_gone",
        message="no replica has served it for 60 seconds",
    )
    assert counts(measured(with_answers(gone, ANSWERS[1]))) == {"revision_gone": 1}
    wrong = msgspec.structs.replace(gone, tokens=ANSWERS[1].tokens[: MOVED_AT * 4])
    assert "wrong_tokens" in counts(measured(with_answers(wrong, ANSWERS[1])))


def test_streams_that_were_refused_or_cut_are_told_apart() -> None:
    streams = [
        Streamed(9.0, 10.0, 80),
        Streamed(9.0, 10.0, 0, "HTTP 503", refused=True),
        Streamed(9.0, 10.0, 40, "it ended after 40 tokens of 80"),
    ]
    found = measured(replace(EVIDENCE, events=[*EVENTS, *streams]))
    assert (found.http_streams, found.http_refused, found.http_cut) == (3, 1, 1)
    assert len(found.problems) == 2
