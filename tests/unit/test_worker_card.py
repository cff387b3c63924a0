"""Which base new calls are for, when replicas of several are there."""

from collections.abc import Iterator

import pytest
from tests.dispatcher_world import OTHER_BASE
from tests.fake_replica import BASE, hello_of

from sampler_api.frames import ServerHello
from sampler_client.discovery import discovery_of
from sampler_client.replica import Replica
from sampler_client.settings import ClientSettings
from sampler_client.worker import Worker

OLD, NEW = "http://a:1", "http://b:1"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(discovery_of(f"{OLD},{NEW}", is_encrypted=False), ClientSettings())
    yield worker
    worker._loop.close()


def meet(worker: Worker, url: str, hello: ServerHello) -> None:
    worker.welcomed(url, hello)
    worker.dispatcher.connected(worker.dispatcher.replicas.get(url) or Replica(url, hello), [])


def base_of(worker: Worker) -> str:
    assert worker.card is not None
    return worker.card.base


def test_new_calls_are_for_the_base_that_was_met_last(worker: Worker) -> None:
    meet(worker, OLD, hello_of("a", "a-1", base=BASE))
    meet(worker, NEW, hello_of("b", "b-1", base=OTHER_BASE))
    assert base_of(worker) == OTHER_BASE


def test_a_replica_that_comes_back_is_no_news(worker: Worker) -> None:
    meet(worker, OLD, hello_of("a", "a-1", base=BASE))
    meet(worker, NEW, hello_of("b", "b-1", base=OTHER_BASE))
    meet(worker, OLD, hello_of("a", "a-1", base=BASE))
    assert base_of(worker) == OTHER_BASE


def test_new_calls_are_for_no_base_that_has_left(worker: Worker) -> None:
    meet(worker, NEW, hello_of("b", "b-1", base=OTHER_BASE))
    meet(worker, OLD, hello_of("a", "a-1", base=BASE))
    worker.dispatcher.forget(OLD)
    worker.review_card()
    assert base_of(worker) == OTHER_BASE


def test_the_base_stays_while_nobody_takes_work(worker: Worker) -> None:
    meet(worker, OLD, hello_of("a", "a-1", base=BASE))
    worker.dispatcher.forget(OLD)
    worker.review_card()
    assert base_of(worker) == BASE


def test_a_replica_that_comes_back_with_another_base_is_news(worker: Worker) -> None:
    meet(worker, OLD, hello_of("a", "a-1", base=BASE))
    for base in (OTHER_BASE, BASE):
        meet(worker, OLD, hello_of("a", "a-1", base=base))
        assert base_of(worker) == base
