"""Base weights that change under calls of this process: what becomes of what runs, and of what
waits. On an engine without weights."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_local_backend import Call, tokens_of
from tests.raw_bases import write_base

from sampler_api.errors import (
    Busy,
    EngineDead,
    EngineFailed,
    RevisionGone,
    WeightsInvalid,
)
from sampler_api.fleet import WeightsUpdate, WeightsUpdated
from sampler_api.frames import ERROR, LENGTH, RevisionRef
from sampler_core.bases import base_digest
from sampler_server.engines.base import Weights
from sampler_server.engines.sim import SimEngine, SimSettings
from sampler_server.engines.sim import base_digest as sim_digest
from sampler_server.engines.sim.latency import LatencyModel
from sampler_server.local import LocalBackend


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[LocalBackend]:
    settings = SimSettings(eos_rate=0, slots=2, latency=LatencyModel(decode_rate=200))
    backend = LocalBackend(lambda: SimEngine(settings))
    yield backend
    backend.close()


class Update:
    """An update in a thread of its own."""

    def __init__(self, backend: LocalBackend, directory: Path, in_flight: Any) -> None:
        self._wanted = WeightsUpdate(str(directory), in_flight)
        self._backend = backend
        self.result: WeightsUpdated | Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._backend.update_weights(self._wanted)
        except Exception as error:
            self.result = error

    def wait(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.result


def until(holds: Any) -> None:
    waited = threading.Event()
    for _ in range(2000):
        if holds():
            return
        waited.wait(0.01)
    raise AssertionError("it never came true")


def call(number: int, length: int, ref: RevisionRef | None = None) -> Call:
    ref = ref or RevisionRef(sim_digest())
    return Call([[i + 1] for i in range(number)], ref, max_tokens=length)


def bases_of(made: Call) -> list[list[str]]:
    return [
        [s.revision.base for s in group.children[0].segments if s.revision is not None]
        for group in made.groups
    ]


def spans_of(made: Call) -> list[list[tuple[int, int]]]:
    return [[(s.start, s.end) for s in g.children[0].segments] for g in made.groups]


def lengths(made: Call) -> Sequence[int]:
    return [len(tokens) for group in made.groups for tokens in tokens_of(group)]


def held_up(slow: LocalBackend, folder: Path) -> tuple[Call, Call, Update]:
    """A call that an update waits for, and one that waits for the update."""
    first, second = call(2, 100), call(1, 5)
    slow.submit(first.groups)
    until(lambda: slow._engine.progress().running == 2)
    update = Update(slow, write_base(folder, 1), "finish")
    until(lambda: slow.hub.change.is_pending)
    slow.submit(second.groups)
    return first, second, update


def test_what_comes_while_the_weights_change_waits_for_the_new_ones(
    slow: LocalBackend, tmp_path: Path
) -> None:
    first, second, update = held_up(slow, tmp_path / "b")
    assert not second.done.wait(0.1)
    assert second.groups[0].children[0].flag == 0
    first.wait()
    second.wait()
    old, new = sim_digest(), base_digest(tmp_path / "b")
    assert update.wait() == WeightsUpdated(new, old)
    assert (bases_of(first), bases_of(second)) == ([[old], [old]], [[new]])


def test_what_continues_has_spans_without_gaps(slow: LocalBackend, tmp_path: Path) -> None:
    # Two run, three wait in the engine: those had not begun.
    made = call(5, 60)
    slow.submit(made.groups)
    until(lambda: slow._engine.progress().running == 2 and slow._engine.progress().steps > 10)
    update = Update(slow, write_base(tmp_path / "b", 1), "continue")
    made.wait()
    old, new = sim_digest(), update.wait().base
    assert lengths(made) == [60] * 5
    for named, spans in zip(bases_of(made), spans_of(made), strict=True):
        assert named in ([old, new], [new])
        assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
        assert spans[-1][1] == 60
    assert [old, new] in bases_of(made)
    assert [new] in bases_of(made)


def test_what_is_aborted_keeps_its_tokens(slow: LocalBackend, tmp_path: Path) -> None:
    made = call(3, 1000)
    slow.submit(made.groups)
    until(lambda: slow._engine.progress().steps > 10)
    Update(slow, write_base(tmp_path / "b", 1), "abort").wait()
    for group in made.wait():
        (child,) = group.children
        assert child.flag == ERROR
        assert isinstance(child.error, RevisionGone)
        assert len(child.columns) < 1000
    assert max(lengths(made)) > 0
    assert {base for named in bases_of(made) for base in named} == {sim_digest()}


def test_a_call_that_is_cancelled_while_it_waits_ends(slow: LocalBackend, tmp_path: Path) -> None:
    first, second, update = held_up(slow, tmp_path / "b")
    slow.cancel(second.groups)
    second.wait()
    assert lengths(second) == [0]
    first.wait()
    update.wait()


def test_one_update_at_a_time(slow: LocalBackend, tmp_path: Path) -> None:
    made = call(1, 100)
    slow.submit(made.groups)
    until(lambda: slow._engine.progress().running == 1)
    first = Update(slow, write_base(tmp_path / "b", 1), "finish")
    until(lambda: slow.hub.change.is_pending)
    assert isinstance(Update(slow, write_base(tmp_path / "c", 2), "abort").wait(), Busy)
    made.wait()
    assert first.wait().base == base_digest(tmp_path / "b")


@pytest.mark.parametrize(
    "error", [WeightsInvalid("changed", "directory"), EngineFailed("no memory")]
)
def test_what_was_stopped_goes_on_where_the_weights_stayed(
    tmp_path: Path, error: Exception
) -> None:
    class Refuses(SimEngine):
        def update_weights(self, weights: Weights) -> None:
            raise error

    settings = SimSettings(eos_rate=0, latency=LatencyModel(decode_rate=200))
    backend = LocalBackend(lambda: Refuses(settings))
    made = call(2, 60)
    backend.submit(made.groups)
    until(lambda: backend._engine.progress().steps > 10)
    assert Update(backend, write_base(tmp_path / "b", 1), "continue").wait() is error
    made.wait()
    assert [child.flag for group in made.groups for child in group.children] == [LENGTH] * 2
    assert lengths(made) == [60, 60]
    assert {base for named in bases_of(made) for base in named} == {sim_digest()}
    whole = call(2, 60)
    backend.submit(whole.groups)
    whole.wait()
    assert [tokens_of(g) for g in whole.groups] == [tokens_of(g) for g in made.groups]
    backend.close()


def test_an_engine_of_which_nobody_knows_what_it_has_serves_nothing_more(tmp_path: Path) -> None:
    class Loses(SimEngine):
        def update_weights(self, weights: Weights) -> None:
            raise KeyError("a layer")

    backend = LocalBackend(Loses)
    died = Update(backend, write_base(tmp_path / "b", 1), "abort").wait()
    assert isinstance(died, EngineDead)
    made = call(1, 5)
    backend.submit(made.groups)
    assert isinstance(made.wait()[0].children[0].error, EngineDead)
    backend.close()


def test_the_prefix_of_a_continued_sequence_is_read_under_the_new_base(
    slow: LocalBackend, tmp_path: Path
) -> None:
    """sim: a token is a hash of the whole prefix, the seed and the revision."""
    made = call(1, 60)
    slow.submit(made.groups)
    until(lambda: slow._engine.progress().steps > 10)
    new = Update(slow, write_base(tmp_path / "b", 1), "continue").wait().base
    made.wait()
    (group,) = made.groups
    cut = group.children[0].segments[-1].start
    again = call(1, 60, RevisionRef(new))
    again.groups[0].children[0].columns = _first(group.children[0].columns, cut)
    again.groups[0].children[0].given = cut
    slow.submit(again.groups)
    again.wait()
    assert tokens_of(again.groups[0]) == tokens_of(group)


def _first(columns: Any, length: int) -> Any:
    import copy

    kept = copy.deepcopy(columns)
    kept.truncate(length)
    return kept
