"""The ledger checker finds what is seeded, and nothing in a clean run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.ledger import Asked, Got, check, read_ledger

from sampler_api.params import SamplingParams
from sampler_server.engines.base import EngineRequest
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.ledger import (
    LedgerRecord,
    LedgerWriter,
    parse_records,
    prompt_digest,
)
from sampler_server.engines.sim.tokens import sim_sequence, weights_state

BASE = base_digest()
LENGTH = 12
ASKED = [Asked((1, 2, 3), seed, BASE, length=LENGTH) for seed in range(4)]


def tokens_of(asked: Asked) -> tuple[int, ...]:
    return tuple(sim_sequence(asked.prompt, asked.seed, asked.base, asked.adapter, LENGTH)[0])


def record(asked: Asked, offset: int, tokens: Sequence[int], key: int = 1) -> LedgerRecord:
    prompt = prompt_digest(np.array(asked.prompt, np.int32))
    weights = weights_state(asked.base, asked.adapter)
    return LedgerRecord(prompt, weights, key, 0, asked.seed, offset, tuple(tokens))


LEDGER = [
    part
    for asked in ASKED
    for part in (record(asked, 0, tokens_of(asked)[:5]), record(asked, 5, tokens_of(asked)[5:], 2))
]
GOT = [Got(asked, tokens_of(asked)) for asked in ASKED]


def test_a_clean_run_has_no_violation() -> None:
    found = check(LEDGER, ASKED, GOT)
    assert (found.count, found.redone) == (0, 0)
    assert "no violation" in str(found)


def test_a_sequence_asked_for_twice_is_made_twice() -> None:
    found = check(LEDGER * 2, ASKED * 2, GOT * 2)
    assert (found.count, found.redone) == (0, 0)


def test_a_missing_sequence_is_lost() -> None:
    found = check(LEDGER, ASKED, GOT[1:])
    assert (len(found.lost), found.count) == (1, 1)
    assert "seed 0" in str(found)


def test_a_short_sequence_is_lost_in_part() -> None:
    short = Got(ASKED[0], GOT[0].tokens[:-1])
    found = check(LEDGER, ASKED, [short, *GOT[1:]])
    assert found.lost == [f"prompt [1, 2, 3]… seed 0: {LENGTH - 1} tokens of {LENGTH}"]


def test_a_sequence_delivered_twice_is_duplicated() -> None:
    found = check(LEDGER, ASKED, [*GOT, GOT[2]])
    assert (len(found.duplicated), found.count) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: (*t[:5], t[4], *t[5:-1]), id="a doubled token"),
        pytest.param(lambda t: (*t[:5], *t[6:], 0), id="a lost token"),
        pytest.param(lambda t: (*t[:5], t[5] ^ 1, *t[6:]), id="a changed token"),
    ],
)
def test_a_token_that_no_engine_made_is_found(change) -> None:  # type: ignore[no-untyped-def]
    wrong = Got(ASKED[1], change(GOT[1].tokens))
    found = check(LEDGER, ASKED, [GOT[0], wrong, *GOT[2:]])
    assert (len(found.wrong_tokens), found.count) == (1, 1)


def test_tokens_made_behind_a_wrong_prefix_are_found_although_an_engine_made_them() -> None:
    # A client that lost token 5 and asked for more: the engine has begun anew at its place.
    kept = GOT[1].tokens[:5]
    later = sim_sequence((*ASKED[1].prompt, *kept, 9), ASKED[1].seed, BASE, None, LENGTH - 5)[0]
    ledger = [*LEDGER, record(ASKED[1], 5, later, 3)]
    wrong = Got(ASKED[1], (*kept, *later))
    found = check(ledger, ASKED, [GOT[0], wrong, *GOT[2:]])
    assert found.wrong_tokens == [
        "prompt [1, 2, 3]… seed 1: token 5 was made behind another prefix"
    ]
    assert found.count == 1


def test_what_is_there_of_a_partial_sequence_must_be_right() -> None:
    part = Got(ASKED[0], GOT[0].tokens[:4], is_partial=True)
    assert check(LEDGER, ASKED, [part, *GOT[1:]]).count == 0
    wrong = part._replace(tokens=(*part.tokens[:3], part.tokens[3] ^ 1))
    assert len(check(LEDGER, ASKED, [wrong, *GOT[1:]]).wrong_tokens) == 1


def test_tokens_of_other_weights_are_a_wrong_revision() -> None:
    other = ASKED[3]._replace(adapter="sha256:other")
    ledger = [
        *LEDGER[:6],
        record(ASKED[3], 0, GOT[3].tokens[:4]),
        record(other, 4, tokens_of(other)[4:]),
    ]
    mixed = Got(ASKED[3], (*GOT[3].tokens[:4], *tokens_of(other)[4:]))
    found = check(ledger, ASKED, [*GOT[:3], mixed])
    assert (len(found.wrong_revision), found.count) == (1, 1)


def test_tokens_made_again_after_a_move_are_counted_as_redone() -> None:
    again = record(ASKED[0], 3, GOT[0].tokens[3:8], 9)
    found = check([*LEDGER, again], ASKED, GOT)
    assert (found.count, found.redone, found.redone_most) == (0, 5, 5)


def request(asked: Asked, key: int, seed: int | None) -> EngineRequest:
    prompt, none = np.array(asked.prompt, np.int32), np.empty(0, np.int32)
    return EngineRequest(key, prompt, none, SamplingParams(), LENGTH, seed=seed, group=77)


def written(path: Path, seed: int | None = 5) -> LedgerRecord:
    tokens = np.array([5, 6, 250], np.int32).tobytes()
    with LedgerWriter(path) as writer:
        writer.add(request(ASKED[0], 3, seed), 11, 22, 4, tokens)
        writer.flush()
    return LedgerRecord(11, 22, 3, 77, seed, 4, (5, 6, 250))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a"), written(tmp_path / "a", None)
    assert read_ledger(tmp_path / "a") == [one, two]
    assert read_ledger([tmp_path / "a", tmp_path / "a"]) == [one, two] * 2


@pytest.mark.parametrize("cut", [1, 8, 20, 60])
def test_a_torn_record_is_left_out_and_the_next_one_is_found(tmp_path: Path, cut: int) -> None:
    whole = written(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    assert parse_records(data + data[:cut] + data) == [whole, whole]
    assert parse_records(data[:cut]) == []
