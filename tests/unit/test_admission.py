"""Credits: capacity filled like water among the sessions with demand."""

import pytest

from sampler_server.admission import Claim, share, water_fill

MANY = 10**6


def busy(weight: float = 1.0, wants: int = MANY) -> Claim:
    return Claim(weight, (0, 0), (wants, wants * 100))


IDLE = Claim()

SHARES: list[tuple[str, list[Claim], list[int]]] = [
    ("a lone busy session gets all", [busy()], [320]),
    ("a lone idle session may begin with all", [IDLE], [320]),
    ("equal sessions get equal shares", [busy(), busy()], [160, 160]),
    ("shares follow the weights", [busy(3.0), busy(1.0)], [240, 80]),
    ("what one does not want goes to the other", [busy(wants=20), busy()], [20, 300]),
    ("a small want of a heavy session is met, not more", [busy(9.0, 30), busy()], [30, 290]),
    ("idle sessions hold one while others want all", [busy(), IDLE, IDLE], [320, 1, 1]),
    ("spare capacity is headroom for those who work", [busy(wants=20)], [320]),
    ("half of the spare waits for idle sessions", [busy(wants=20), IDLE, IDLE], [170, 75, 75]),
    ("running sequences count as demand", [Claim(1.0, (400, 1), (0, 0)), busy()], [160, 160]),
    ("no sessions, no shares", [], []),
]


@pytest.mark.rule("S12.6", only=("remote",))
@pytest.mark.parametrize(("claims", "limits"), [s[1:] for s in SHARES], ids=[s[0] for s in SHARES])
def test_sequences_are_shared(claims: list[Claim], limits: list[int]) -> None:
    assert [sequences for sequences, _ in share(claims, 320, 10**9)] == limits


@pytest.mark.rule("S12.6", only=("remote",))
def test_one_busy_among_63_idle_sessions_gets_95_percent() -> None:
    (sequences, tokens), *rest = share([busy(), *[IDLE] * 63], 320, 100_000)
    assert sequences >= 0.95 * 320
    assert tokens >= 0.95 * 100_000
    assert all(limit == (1, 1) for limit in rest)


def test_a_new_session_gets_its_share_at_the_next_division() -> None:
    claims = [Claim(1.0, (320, 64_000), (5000, MANY)), busy()]
    assert share(claims, 320, 64_000) == [(160, 32_000), (160, 32_000)]


@pytest.mark.rule("S12.6", only=("remote",))
def test_every_session_with_demand_has_at_least_one() -> None:
    limits = share([busy() for _ in range(50)], 8, 8)
    assert set(limits) == {(1, 1)}


def test_sequences_and_tokens_are_separate_waters() -> None:
    short = Claim(1.0, (0, 0), (1000, 10_000))
    long = Claim(1.0, (0, 0), (10, 1_000_000))
    assert share([short, long], 100, 100_000) == [(90, 10_000), (10, 90_000)]


@pytest.mark.parametrize("total", [0.0, 1.0, 10.0, 99.5])
def test_water_never_exceeds_what_is_there_or_wanted(total: float) -> None:
    wants = [5.0, 0.0, 30.0, 12.5]
    shares = water_fill(total, wants, [1.0, 2.0, 0.5, 4.0])
    assert sum(shares) <= total + 1e-9
    assert all(got <= want for got, want in zip(shares, wants, strict=True))
    assert sum(shares) == pytest.approx(min(total, sum(wants)))
