"""What a replica makes of the adapters that its fleet declares."""

import json
from typing import Any

import pytest

from sampler_api.errors import InvalidRequest
from sampler_api.fleet import AdaptersConfig, DeclaredAdapter, RequiredAdapter
from sampler_server.declared_adapters import DeclaredAdapters, parse_adapters

ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")
A = DeclaredAdapter("a", "/loras/a")
B = DeclaredAdapter("b", "/loras/b")
A_PINNED = DeclaredAdapter("a", "/loras/a", ONE)


def taken(*declared: DeclaredAdapter, **values: Any) -> DeclaredAdapters:
    """A replica that has just read a config."""
    adapters = DeclaredAdapters()
    assert adapters.take(AdaptersConfig(declared, **values)) == []
    return adapters


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param("{", "adapters.json", id="half a file"),
        pytest.param("[]", "adapters.json", id="no object"),
        pytest.param('{"declared": [{"name": "a"}]}', "path", id="an adapter without a path"),
        pytest.param(
            '{"declared": [{"name": "a", "path": "/a", "digest": "sha256:1"}]}',
            r"declared\[0\].digest",
            id="half a digest",
        ),
        pytest.param(
            json.dumps({"declared": [{"name": "a", "path": "/a"}] * 2}),
            r"declared\[1\].name: 'a'",
            id="a name that is there twice",
        ),
        pytest.param("\x00\xff", "adapters.json", id="bytes that are no text"),
    ],
)
def test_a_malformed_file_is_refused_by_name(content: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        parse_adapters(content.encode("latin-1"))


def test_no_content_is_an_empty_config() -> None:
    assert parse_adapters(b"") == AdaptersConfig()


# -- loading ---------------------------------------------------------------------------------------


def test_required_adapters_are_loaded_first() -> None:
    adapters = taken(A, B, required=(RequiredAdapter("b", TWO),))
    assert adapters.next_due(0.0) == B
    assert adapters.wanted_digest(B) == TWO


def test_a_failed_load_is_tried_again_with_growing_delays() -> None:
    adapters = taken(A)
    waits = []
    now = 0.0
    for _ in range(8):
        assert adapters.next_due(now) == A
        adapters.failed(A, "nothing is there", now)
        wait = adapters.wait_seconds(now)
        assert wait is not None
        assert adapters.next_due(now + wait - 0.01) is None
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_new_config_is_a_reason_to_try_at_once() -> None:
    adapters = taken(A)
    adapters.failed(A, "nothing is there", 0.0)
    adapters.take(AdaptersConfig((A, B)))
    assert adapters.next_due(0.0) == A


def test_what_is_held_is_never_due_again() -> None:
    adapters = taken(A)
    assert adapters.loaded(A, ONE)
    assert adapters.next_due(1e9) is None
    assert adapters.wait_seconds(0.0) is None


# -- pins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "released"),
    [
        pytest.param((), [ONE], id="an adapter that is declared no more is let go"),
        pytest.param((A, B), [], id="one that stays declared is kept"),
        pytest.param((A_PINNED,), [], id="one whose digest is named now is kept"),
        pytest.param(
            (DeclaredAdapter("a", "/loras/a", TWO),), [ONE], id="one that became another is let go"
        ),
        pytest.param(
            (DeclaredAdapter("z", "/elsewhere", ONE),), [], id="the same weights by another name"
        ),
    ],
)
def test_pins_follow_the_config(then: tuple[DeclaredAdapter, ...], released: list[str]) -> None:
    adapters = taken(A)
    adapters.loaded(A, ONE)
    assert adapters.take(AdaptersConfig(then)) == released


def test_two_names_of_one_digest_are_one_pin() -> None:
    adapters = taken(A, B)
    assert adapters.loaded(A, ONE)
    assert not adapters.loaded(B, ONE)
    assert adapters.take(AdaptersConfig((B,))) == []
    assert adapters.take(AdaptersConfig()) == [ONE]


def test_a_load_that_nobody_wants_any_more_is_given_back() -> None:
    adapters = taken(A)
    adapters.take(AdaptersConfig())
    assert not adapters.loaded(A, ONE)
    assert adapters.names() == {}


# -- what is told ----------------------------------------------------------------------------------


def test_states_follow_the_loads() -> None:
    adapters = taken(A, B)
    assert [state.state for state in adapters.states()] == ["loading", "loading"]
    adapters.loaded(A, ONE)
    adapters.failed(B, "/loras/b: does not exist", 0.0)
    held, failed = adapters.states()
    assert (held.name, held.state, held.digest) == ("a", "held", ONE)
    assert (failed.state, failed.message) == ("failed", "/loras/b: does not exist")
    assert adapters.names() == {"a": ONE}


def test_the_hash_is_told_once_every_adapter_has_been_tried() -> None:
    adapters = taken(A, B)
    assert adapters.adapters_hash == ""
    adapters.loaded(A, ONE)
    assert adapters.adapters_hash == ""
    adapters.failed(B, "no", 0.0)
    first = AdaptersConfig((A, B)).declared_hash
    assert adapters.adapters_hash == first
    adapters.take(AdaptersConfig((A, DeclaredAdapter("c", "/c"))))
    assert adapters.adapters_hash == first
    adapters.take(AdaptersConfig())
    assert adapters.adapters_hash == ""


def test_a_new_fleet_is_ready_when_each_adapter_has_been_tried_once() -> None:
    adapters = taken(A, B)
    assert adapters.missing == "declared adapters are being loaded: a, b"
    adapters.loaded(A, ONE)
    adapters.failed(B, "no", 0.0)
    assert adapters.missing == ""


def test_a_joiner_waits_for_what_ready_replicas_hold_and_for_nothing_else() -> None:
    adapters = taken(A, B, required=(RequiredAdapter("a", ONE),))
    adapters.failed(A, "/loras/a: does not exist", 0.0)
    assert adapters.missing == (f"required adapters are not held: a@{ONE} /loras/a: does not exist")
    adapters.failed(B, "broken", 0.0)
    adapters.loaded(A, ONE)
    assert adapters.missing == ""


def test_a_required_adapter_that_is_not_declared_is_named() -> None:
    adapters = taken(required=(RequiredAdapter("a", ONE),))
    assert adapters.missing == f"required adapters are not held: a@{ONE} is not declared"


def test_what_was_complete_once_stays_complete() -> None:
    adapters = taken()
    assert adapters.missing == ""
    adapters.take(AdaptersConfig((A,), (RequiredAdapter("a", ONE),)))
    assert adapters.missing == ""
    assert adapters.next_due(0.0) == A
