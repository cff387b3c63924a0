"""What a lost session may have left running, and when it is told to end."""

from tests.fake_replica import make_group

from sampler_api.frames import CancelId
from sampler_client.leftovers import Leftovers, attempt_of

URL = "http://a:1"


def test_leftovers_are_told_once_to_the_process_that_has_them() -> None:
    left = Leftovers()
    first, second = make_group(2), make_group()
    second.seq, second.children[0].attempt = 7, 3
    left.add(URL, "a-1", map(attempt_of, first.children))
    left.add(URL, "a-1", map(attempt_of, second.children))
    assert left.take("http://b:1", "a-1") == []
    assert left.take(URL, "a-1") == [CancelId(-1, 0, 0), CancelId(-1, 1, 0), CancelId(7, 0, 3)]
    assert left.take(URL, "a-1") == []


def test_another_process_is_told_nothing() -> None:
    left = Leftovers()
    left.add(URL, "a-1", map(attempt_of, make_group().children))
    assert left.take(URL, "a-2") == []
    assert left.take(URL, "a-1") == []


def test_only_the_last_process_of_an_endpoint_counts() -> None:
    left = Leftovers()
    left.add(URL, "a-1", map(attempt_of, make_group().children))
    left.add(URL, "a-2", map(attempt_of, make_group(2).children))
    assert len(left.take(URL, "a-2")) == 2


def test_an_endpoint_that_has_left_is_forgotten() -> None:
    left = Leftovers()
    left.add(URL, "a-1", map(attempt_of, make_group().children))
    left.forget(URL)
    assert left.take(URL, "a-1") == []
