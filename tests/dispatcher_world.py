"""A dispatcher among fake replicas, for tests of the client's state machine."""

from tests.fake_replica import BASE, Asked, FakeReplica, hello_of, make_group

from sampler_client.dispatcher import Dispatcher
from sampler_client.settings import ClientSettings
from sampler_core.groups import Group

__all__ = ["OTHER_BASE", "World", "outputs_of", "segments_of", "tokens_of"]

OTHER_BASE = "sha256:" + "1" * 64


class World:
    """A dispatcher, its replicas, and the groups that have ended."""

    def __init__(self, *names: str, sequences: int = 8, **settings: float | str) -> None:
        self.woken: list[str] = []
        self.dispatcher = Dispatcher(
            ClientSettings(**settings),  # type: ignore[arg-type]
            lambda replica: self.woken.append(replica.name),
        )
        self.done: list[Group] = []
        self.replicas = {name: self.start(name, sequences=sequences) for name in names}

    def start(
        self, name: str, life: int = 1, *, sequences: int = 8, base: str = BASE
    ) -> FakeReplica:
        hello = hello_of(name, f"{name}-{life}", sequences=sequences, base=base)
        replica = FakeReplica(self.dispatcher, hello)
        replica.connect()
        return replica

    def submit(self, *sizes: int, base: str = BASE, max_tokens: int | None = 16) -> list[Group]:
        groups = [
            make_group(n, done=self.done, base=base, max_tokens=max_tokens, key=i * 7919 << 40)
            for i, n in enumerate(sizes)
        ]
        self.dispatcher.submit(groups)
        return groups

    def tick(self, number: int) -> list[str]:
        """Names of the replicas that were silent for too long at the last of ``number`` ticks."""
        silent: list[str] = []
        for _ in range(number):
            silent = [replica.name for replica in self.dispatcher.tick()]
        return silent

    def home_of(self, group: Group) -> tuple[FakeReplica, FakeReplica]:
        """The replica that has a group's first child, and another one."""
        child = group.children[0]
        homes = [r for r in self.replicas.values() if child in r.replica.children.values()]
        others = [r for r in self.replicas.values() if r not in homes]
        return homes[0], others[0] if others else homes[0]


def tokens_of(group: Group, child: int = 0) -> list[int]:
    ids: list[int] = group.children[child].columns.token_ids.tolist()
    return ids


def segments_of(group: Group, child: int = 0) -> list[tuple[str, int, int, str]]:
    return [(s.replica, s.start, s.end, s.ended) for s in group.children[child].segments]


def outputs_of(asked: dict[int, Asked]) -> list[tuple[int, tuple[int, ...]]]:
    return [(a.attempt, a.output) for a in asked.values()]
