"""The latency model of the sim engine."""

import pytest

from sampler_api.errors import InvalidRequest
from sampler_server.engines.sim.latency import LatencyModel


def test_without_rates_everything_is_at_once() -> None:
    plan = LatencyModel().step(0, decoding=10, prefill_tokens=500, most_tokens=32)
    assert LatencyModel().is_at_once
    assert (plan.seconds, plan.tokens) == (0.0, 32)


def test_a_step_takes_the_time_of_one_token_and_grows_with_the_batch() -> None:
    model = LatencyModel(decode_rate=100, per_sequence=0.001)
    assert model.step(0, 1, 0, 32).seconds == pytest.approx(0.011)
    assert model.step(0, 10, 0, 32).seconds == pytest.approx(0.020)
    assert model.step(0, 10, 0, 32).tokens == 1


def test_a_fast_decode_makes_several_tokens_a_step_at_the_same_rate() -> None:
    plan = LatencyModel(decode_rate=10_000).step(0, 4, 0, 1000)
    assert plan.tokens == 20
    assert plan.seconds == pytest.approx(20 / 10_000)


def test_no_step_makes_more_tokens_than_any_sequence_needs() -> None:
    assert LatencyModel(decode_rate=10_000).step(0, 4, 0, 3).tokens == 3


def test_prefill_takes_its_time_beside_the_decode() -> None:
    model = LatencyModel(prefill_rate=1000, decode_rate=50)
    assert model.step(0, 0, 100, 1).seconds == pytest.approx(0.1)
    assert model.step(0, 1, 50, 1).seconds == pytest.approx(0.07)


def test_a_long_prompt_is_read_in_parts() -> None:
    assert LatencyModel(prefill_rate=1000).prefill_budget() == 100
    assert LatencyModel(decode_rate=5).prefill_budget() is None


def test_jitter_stays_in_its_bounds_and_repeats() -> None:
    model = LatencyModel(decode_rate=10, jitter=0.5)
    seconds = [model.step(i, 1, 0, 1).seconds for i in range(500)]
    assert seconds == [model.step(i, 1, 0, 1).seconds for i in range(500)]
    assert 0.05 <= min(seconds) < 0.06
    assert 0.14 < max(seconds) <= 0.15


def test_slow_stretches_every_step() -> None:
    assert LatencyModel(decode_rate=10, slow=3).step(0, 1, 0, 1).seconds == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("prefill_rate", -1.0), ("decode_rate", float("nan")), ("jitter", 1.0), ("slow", 0.0)],
)
def test_an_impossible_number_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        LatencyModel(**{name: value})
    assert caught.value.field == name
