"""A fleet sampler that is copied to other processes, and what a call shows while it runs."""

import asyncio
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.raw_adapters import write_adapter
from tests.servers import Server

from sampler_client import RemoteSampler, SamplingParams

INPUTS: list[dict[str, Any]] = [{"input_ids": [5, number]} for number in range(3)]
PARAMS = SamplingParams(max_tokens=8, seed=1, logprobs=1)


class Words:
    """A template that needs no model."""

    def encode(self, feature: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**feature, "input_ids": [len(m["content"]) for m in feature["messages"]]}

    def decode(self, tokens: list[int], **_: Any) -> str:
        return " ".join(map(str, tokens))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def tokens_of(sampler: RemoteSampler) -> list[list[int]]:
    return [s.tokens for s in sampler.sample(INPUTS, PARAMS).sequences]


def test_a_pickled_sampler_connects_anew_and_gives_the_same(server: Server) -> None:
    with RemoteSampler(server.url) as sampler:
        expected = tokens_of(sampler)
        sampler.set_template(Words())
        data = pickle.dumps(sampler)
    with pickle.loads(data) as copy:
        assert tokens_of(copy) == expected
        (response,) = copy.sample({"messages": [{"role": "user", "content": "four"}]}, PARAMS)
        assert response.prompt_token_ids == [4]
        assert response.sequences[0].decoded == " ".join(map(str, response.sequences[0].tokens))


def test_a_pickled_sampler_keeps_the_adapters_that_were_bound(tmp_path: Path) -> None:
    first, second = (write_adapter(tmp_path / name, seed) for seed, name in enumerate("ab", 1))
    with Server("--adapter-root", str(tmp_path)) as server, RemoteSampler(server.url) as sampler:
        bound = {
            name: sampler.add_adapter_to_model(name, path)
            for name, path in (("one", first), ("two", second))
        }
        expected = {name: sampler.sample(INPUTS, PARAMS, name).sequences for name in bound}
        base = tokens_of(sampler)
        with pickle.loads(pickle.dumps(sampler)) as copy:
            for name, revision in bound.items():
                found = copy.sample(INPUTS, PARAMS, name).sequences
                assert [s.tokens for s in found] == [s.tokens for s in expected[name]] != base
                assert {s.revision.adapter for s in found if s.revision} == {revision.digest}
            assert tokens_of(copy) == base
            # A generation goes on from where the original was.
            assert copy.add_adapter_to_model("one", second).generation > bound["one"].generation
        assert [s.tokens for s in sampler.sample(INPUTS, PARAMS, "one").sequences] == [
            s.tokens for s in expected["one"]
        ]


async def test_a_call_that_waits_may_be_made_inside_a_running_loop(server: Server) -> None:
    with RemoteSampler(server.url) as sampler:
        # Blocks the loop of this test, as it would a notebook's cell, and comes back.
        inside = tokens_of(sampler)
        responses = await sampler.asample(INPUTS, PARAMS)
        assert [s.tokens for s in responses.sequences] == inside
        beside = await asyncio.to_thread(tokens_of, sampler)
    assert beside == inside
    assert all(len(tokens) == 8 for tokens in inside)


def _sample(sampler: RemoteSampler, answers: Any) -> None:
    try:
        answers.put(tokens_of(sampler))
    except BaseException as error:
        answers.put(repr(error))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    "context",
    [
        pytest.param(multiprocessing.get_context("fork"), id="fork"),
        pytest.param(multiprocessing.get_context("spawn"), id="spawn"),
    ],
)
def test_a_process_that_is_started_with_a_sampler_samples(server: Server, context: Any) -> None:
    answers = context.Queue()
    with RemoteSampler(server.url) as sampler:
        expected = tokens_of(sampler)
        process = context.Process(target=_sample, args=(sampler, answers))
        process.start()
        found = answers.get(timeout=30)
        process.join(30)
        assert found == expected
        assert process.exitcode == 0
        assert tokens_of(sampler) == expected
    answers.close()


def test_a_progress_bar_counts_inputs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with RemoteSampler(server.url) as sampler:
        silent = sampler.sample(INPUTS, PARAMS)
        assert capsys.readouterr().err == ""
        shown = sampler.sample(INPUTS, PARAMS, progress=True)
    assert "sampling" in (bar := capsys.readouterr().err)
    assert "3/3" in bar
    assert [s.tokens for s in shown.sequences] == [s.tokens for s in silent.sequences]
