"""A client's first moments: nobody takes everything only because it answers first."""

from tests.dispatcher_world import World

from sampler_client.meeting import Meeting


def loads(world: World) -> list[int]:
    return [len(replica.replica.children) for replica in world.replicas.values()]


def test_who_answers_first_takes_its_share_and_the_others_find_theirs() -> None:
    world = World(sequences=64)
    for name in "abc":
        world.dispatcher.expect(f"http://{name}")
    world.submit(*[1] * 60)
    for number, name in enumerate("abc", start=1):
        world.replicas[name] = world.start(name, sequences=64)
        assert loads(world) == [20] * number


def test_an_endpoint_that_fails_leaves_its_share_to_the_others() -> None:
    world = World()
    for name in "ab":
        world.dispatcher.expect(f"http://{name}")
    world.submit(*[1] * 40)
    world.replicas["a"] = world.start("a", sequences=64)
    assert loads(world) == [20]
    world.dispatcher.unreachable("http://b")
    assert loads(world) == [40]


def test_nobody_is_waited_for_longer_than_two_ticks() -> None:
    world = World()
    for name in "ab":
        world.dispatcher.expect(f"http://{name}")
    world.submit(*[1] * 40)
    world.replicas["a"] = world.start("a", sequences=64)
    world.tick(2)
    assert loads(world) == [40]


def test_who_comes_later_bounds_nobody() -> None:
    meeting = Meeting()
    meeting.expect("a")
    meeting.met("a")
    assert meeting.share(100, 1, 0) == 100
    assert meeting.is_over
    meeting.expect("b")
    meeting.share(100, 1, 0)
    assert meeting.is_over


def test_a_group_that_is_larger_than_a_share_is_taken_whole() -> None:
    world = World()
    for name in "ab":
        world.dispatcher.expect(f"http://{name}")
    world.submit(4)
    world.replicas["a"] = world.start("a", sequences=64)
    assert loads(world) == [4]
