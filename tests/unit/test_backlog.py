"""Groups that wait: their order, and what is left of it when some are cancelled."""

from tests.fake_replica import BASE, make_group

from sampler_api.frames import ABORT
from sampler_client.backlog import Backlog
from sampler_core.groups import ChildWork, Group

OTHER_BASE = "sha256:" + "1" * 64


def filled(*sizes: int) -> tuple[Backlog, list[Group]]:
    backlog = Backlog()
    groups = [make_group(size) for size in sizes]
    for group in groups:
        backlog.put(group)
    return backlog, groups


def drain(backlog: Backlog) -> list[tuple[Group, list[ChildWork]]]:
    """Everything, in the order in which it would go."""
    taken = []
    while (item := backlog.head()) is not None:
        taken.append((item[0], list(item[1])))
        backlog.take()
    return taken


def cancel(backlog: Backlog, *children: ChildWork) -> None:
    for child in children:
        backlog.cancelled()
        child.group.end_child(child, ABORT)


def whole(groups: list[Group]) -> list[tuple[Group, list[ChildWork]]]:
    return [(group, group.children) for group in groups]


def test_first_come_first_served() -> None:
    backlog, groups = filled(1, 2)
    assert backlog
    assert backlog.waiting == 3
    assert drain(backlog) == whole(groups)
    assert not backlog
    assert backlog.waiting == 0


def test_what_has_begun_goes_first_in_its_own_order() -> None:
    backlog, groups = filled(1)
    begun = [make_group(2), make_group(1)]
    backlog.put_first((group, group.children) for group in begun)
    assert backlog.waiting == 4
    assert drain(backlog) == whole([*begun, *groups])


def test_a_split_head_goes_child_by_child() -> None:
    backlog, (first, second) = filled(3, 1)
    backlog.split()
    assert backlog.waiting == 4
    alone = [(first, [child]) for child in first.children]
    assert drain(backlog) == [*alone, (second, second.children)]


def test_what_is_parked_waits_and_comes_back_first() -> None:
    backlog, groups = filled(1, 1, 1)
    backlog.park()
    backlog.park()
    assert backlog.waiting == 3
    assert backlog.head() == (groups[2], groups[2].children)
    backlog.take()
    assert backlog.head() is None
    assert backlog
    backlog.unpark()
    assert drain(backlog) == whole(groups[:2])


def test_cancelled_children_are_left_out_however_often_the_head_is_looked_at() -> None:
    backlog, (first, second, third) = filled(3, 1, 2)
    cancel(backlog, first.children[1], *second.children, third.children[0])
    assert backlog.waiting == 3
    for _ in range(3):
        assert backlog.head() == (first, [first.children[0], first.children[2]])
    assert drain(backlog) == [
        (first, [first.children[0], first.children[2]]),
        (third, [third.children[1]]),
    ]
    assert backlog.waiting == 0


def test_groups_are_removed_with_the_children_that_have_not_ended() -> None:
    backlog, (first, second, third) = filled(2, 1, 1)
    backlog.park()
    cancel(backlog, first.children[0])
    removed = backlog.remove(lambda group: group is not second)
    assert removed == [first.children[1], *third.children]
    assert backlog.waiting == 1
    assert drain(backlog) == whole([second])


def test_cancelled_groups_are_let_go_once_they_are_most() -> None:
    backlog, groups = filled(*[1] * 1200)
    backlog.park()
    for group in groups[1:]:
        cancel(backlog, *group.children)
        backlog.compact()
    assert len(backlog._items) < 1100
    assert drain(backlog) == whole(groups[:1])


def test_bases_are_those_of_all_that_waits() -> None:
    backlog, _ = filled(1)
    backlog.put(make_group(base=OTHER_BASE))
    backlog.park()
    assert backlog.bases() == {BASE, OTHER_BASE}
