"""Groups on an engine of this process, and the iterator over one input."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sampler_api.errors import InvalidRequest, ModelInvalid, SamplerClosed
from sampler_api.frames import ABORT, ERROR, LENGTH, STOP, RevisionRef
from sampler_api.params import SamplingParams
from sampler_core.groups import Group
from sampler_server.engines.sim import SimEngine, SimSettings, base_digest, tokenizer_files
from sampler_server.engines.sim.latency import LatencyModel
from sampler_server.hub import Hub
from sampler_server.local import LocalBackend
from sampler_server.runs import Piece, run

BASE = RevisionRef(base_digest())
TIMEOUT_SECONDS = 10.0


class Call:
    """Groups of one call, and when all are done."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        ref: RevisionRef = BASE,
        seeds: Sequence[int | None] = (1,),
        **params: Any,
    ) -> None:
        self.left = len(prompts)
        self.done = threading.Event()
        checked = SamplingParams(**params)
        self.groups = [
            Group(i, np.array(p, np.int32), checked, ref, seeds, i, self._group_done)
            for i, p in enumerate(prompts)
        ]

    def _group_done(self, group: Group) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()

    def wait(self) -> list[Group]:
        assert self.done.wait(TIMEOUT_SECONDS)
        return self.groups


def tokens_of(group: Group) -> list[list[int]]:
    return [child.columns.token_ids.tolist() for child in group.children]


@pytest.fixture(scope="module")
def backend() -> Iterator[LocalBackend]:
    backend = LocalBackend(SimEngine, tokenizer_files=tokenizer_files)
    yield backend
    backend.close()


@pytest.fixture
def slow() -> Iterator[LocalBackend]:
    settings = SimSettings(latency=LatencyModel(decode_rate=100.0))
    backend = LocalBackend(lambda: SimEngine(settings))
    yield backend
    backend.close()


def test_groups_with_children_and_logprobs_are_filled(backend: LocalBackend) -> None:
    call = Call([[1, 2, 3], [4, 5]], seeds=(1, 2, 3), max_tokens=9, logprobs=1)
    backend.submit(call.groups)
    for group in call.wait():
        assert [child.flag for child in group.children] == [LENGTH] * 3
        assert {len(tokens) for tokens in tokens_of(group)} == {9}
        for child in group.children:
            rows = child.columns.arrays()[1]
            assert rows is not None
            assert len(rows) == 9
            assert [(s.start, s.end, s.ended) for s in child.segments] == [(0, 9, "finished")]


def test_a_resumed_child_goes_on_behind_its_tokens(backend: LocalBackend) -> None:
    whole, cut = Call([[1, 2]], max_tokens=12), Call([[1, 2]], max_tokens=12)
    backend.submit(whole.groups)
    tokens = tokens_of(whole.wait()[0])[0]
    head = np.array(tokens[:5], np.int32).tobytes()
    cut.groups[0].children[0].columns.parts.append(head)
    backend.submit(cut.groups)
    assert tokens_of(cut.wait()[0])[0] == tokens


def test_prompt_scores_reach_the_group(backend: LocalBackend) -> None:
    call = Call([[1, 2, 3]], max_tokens=0, prompt_logprobs=2)
    backend.submit(call.groups)
    scores = call.wait()[0].prompt_scores
    assert scores is not None
    assert scores.top_ids.shape == (3, 2)


def test_a_bad_group_fails_alone(backend: LocalBackend) -> None:
    call = Call([[1], [], [2]], max_tokens=3)
    backend.submit(call.groups)
    good, bad, other = call.wait()
    assert (good.children[0].flag, other.children[0].flag) == (LENGTH, LENGTH)
    assert bad.children[0].flag == ERROR
    assert isinstance(bad.children[0].error, InvalidRequest)


def test_stop_ids_are_named_as_matched(backend: LocalBackend) -> None:
    free = Call([[7]], max_tokens=20)
    backend.submit(free.groups)
    stop = tokens_of(free.wait()[0])[0][4]
    call = Call([[7]], max_tokens=20, stop_token_ids=[stop])
    backend.submit(call.groups)
    child = call.wait()[0].children[0]
    assert (child.flag, child.matched) == (STOP, stop)


def test_a_cancel_keeps_the_tokens_so_far(slow: LocalBackend) -> None:
    call = Call([[1, 2]], seeds=(1, 2), max_tokens=10_000)
    slow.submit(call.groups)
    short = Call([[3]], max_tokens=5)
    slow.submit(short.groups)
    short.wait()
    slow.cancel(call.groups)
    children = call.wait()[0].children
    assert {child.flag for child in children} == {ABORT}
    assert all(len(child.columns) >= 4 for child in children)


def test_closing_fails_what_is_unfinished(slow: LocalBackend) -> None:
    call = Call([[1, 2]], max_tokens=10_000)
    slow.submit(call.groups)
    slow.close()
    assert isinstance(call.wait()[0].children[0].error, SamplerClosed)
    late = Call([[1, 2]])
    slow.submit(late.groups)
    assert isinstance(late.wait()[0].children[0].error, SamplerClosed)


def test_an_engine_that_cannot_start_raises_in_the_constructor() -> None:
    class Broken(SimEngine):
        def start(self, sink: Any) -> None:
            raise ModelInvalid("config.json: is missing")

    with pytest.raises(ModelInvalid, match=r"config\.json"):
        LocalBackend(Broken)


def test_adapters_of_a_closed_backend_are_refused_and_nobody_waits() -> None:
    backend = LocalBackend(SimEngine)
    backend.close()
    with pytest.raises(SamplerClosed):
        backend.create_adapter({"r": 4})
    with pytest.raises(SamplerClosed):
        backend.ensure_adapter(RevisionRef(BASE.base, "sha256:" + "1" * 64))


# -- runs -----------------------------------------------------------------------------------------


async def _pieces(backend: LocalBackend, **asked: Any) -> list[Piece]:
    async def collect() -> list[Piece]:
        hub: Hub = backend.hub
        params = SamplingParams(**asked.pop("params"))
        async with run(hub, np.array([1, 2, 3], np.int32), params, **asked) as pieces:
            return [piece async for piece in pieces]

    work = asyncio.run_coroutine_threadsafe(collect(), backend.loop)
    return await asyncio.wrap_future(work)


async def test_a_run_gives_every_child_to_its_end(backend: LocalBackend) -> None:
    pieces = await _pieces(backend, params={"max_tokens": 100, "logprobs": 2}, seeds=[1, 2])
    for child in (0, 1):
        mine = [piece for piece in pieces if piece.child == child]
        assert sum(len(piece.columns) for piece in mine) == 100
        assert [piece.flag for piece in mine if piece.flag] == [LENGTH]


async def test_leaving_a_run_cancels_at_the_engine(slow: LocalBackend) -> None:
    async def leave() -> int:
        params = SamplingParams(max_tokens=10_000)
        prompt = np.array([1, 2, 3], np.int32)
        async with run(slow.hub, prompt, params, seeds=[1, 2], is_interactive=True) as pieces:
            async for _ in pieces:
                break
        return slow.hub.local_running

    work = asyncio.run_coroutine_threadsafe(leave(), slow.loop)
    assert await asyncio.wrap_future(work) == 0
    assert not slow.hub.table.running


async def test_a_wrong_run_is_refused_before_anything_runs(backend: LocalBackend) -> None:
    with pytest.raises(InvalidRequest, match="vocabulary"):
        await _pieces(backend, params={"stop_token_ids": [10**6]})
