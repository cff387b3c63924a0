"""Adapters that are published one after another, many more than a server keeps, while it samples.

The core of bench/adapter_churn.py with fewer of them; tests/contract/conformance has it for vLLM.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.adapter_churn import Ending, missed, settled
from bench.adapter_course import Course, footprint, publish_one_after_another, verdict
from bench.token_adapters import TokenAdapters
from tests.servers import Server
from tests.tiny_models import tiny_model

from sampler_api.results import SampledSequence, Segment
from sampler_api.revisions import Revision
from sampler_client import RemoteSampler

ADAPTERS = 40
KEPT = 8
CALLS_A_STEP = 4
STORED = 12
"""Copies that the store has room for."""
ADAPTER_BYTES = 70_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("churn")
    (made / "store").mkdir()
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    pytest.importorskip("torch")
    with Server(
        f"--model={tiny_model()}",
        "--dtype=float32",
        "--device=cpu",
        "--threads=1",
        "--drain-seconds=0",
        "--log-level=warning",
        f"--max-adapters={KEPT}",
        f"--adapter-root={folder}",
        f"--adapter-store={folder / 'store'}",
        f"--adapter-store-bytes={STORED * ADAPTER_BYTES}",
        engine="torch",
    ) as server:
        yield server


class Mistaken(TokenAdapters):
    """Expects of one adapter what another one says."""

    def write(self, number: int, directory: Path) -> None:
        TokenAdapters(tiny_model()).write(number, directory)

    def token(self, number: int) -> int:
        return super().token(number + (number == 3))


async def course_and_ending(server: Server, folder: Path) -> tuple[Course, Ending]:
    pids = [int(server.announced["pid"])]
    with RemoteSampler(server.url) as sampler:
        course = await publish_one_after_another(
            sampler,
            TokenAdapters(tiny_model()),
            folder / "adapters",
            ADAPTERS,
            look=lambda: footprint(pids),
        )
        least = min(found.descriptors for _, found in course.server)
        return course, await settled(server.manage.url, pids, folder / "store", least)


def test_every_sequence_is_of_the_adapter_that_its_name_meant_and_nothing_is_left(
    server: Server, folder: Path
) -> None:
    course, ending = asyncio.run(course_and_ending(server, folder))
    assert course.wrong == []
    assert course.lost == []
    # The calibration is not counted; the first two steps have fewer adapters to ask for.
    assert course.sequences == ADAPTERS * (CALLS_A_STEP + 1) - 3 - 1
    assert len(set(course.digests.values())) == ADAPTERS
    assert course.replicas == {server.name}
    assert ending.adapters == KEPT
    assert ending.streams == 0
    assert ending.footprint.descriptors <= min(f.descriptors for _, f in course.server)
    assert ending.stored <= STORED
    assert set(server.status()["held"]) == {course.digests[n] for n in range(ADAPTERS)[-KEPT:]}


def test_a_sequence_of_another_adapter_is_found(server: Server, folder: Path) -> None:
    async def course() -> Course:
        with RemoteSampler(server.url) as sampler:
            adapters = Mistaken(tiny_model())
            return await publish_one_after_another(sampler, adapters, folder / "mistaken", 6)

    found = asyncio.run(course())
    digest = found.digests[3]
    # Its first token, two sequences while it is the newest, one while it is not any more.
    assert len(found.wrong) == 4
    assert all(digest[:19] in told for told in found.wrong)
    assert found.lost == []


BASE, OTHER = Revision("sha256:base"), Revision("sha256:base", "sha256:other")


def made(tokens: list[int], *revisions: Revision) -> SampledSequence:
    segments = tuple(Segment("r", each, 0, 1, "finished") for each in revisions[1:])
    return SampledSequence("length", tokens, revision=revisions[0], segments=segments)


@pytest.mark.parametrize(
    ("sequence", "told"),
    [
        pytest.param(made([5, 5], OTHER, OTHER), "", id="right"),
        pytest.param(made([5, 6], OTHER, OTHER), "makes", id="other tokens"),
        pytest.param(made([5, 5], BASE, OTHER), "told of", id="other revision"),
        pytest.param(made([5, 5], OTHER, OTHER, BASE), "told of", id="a segment of the base"),
    ],
)
def test_a_verdict_looks_at_tokens_revision_and_segments(
    sequence: SampledSequence, told: str
) -> None:
    found = verdict(sequence, [5, 5], OTHER)
    assert told in found
    assert bool(found) == bool(told)


def test_a_figure_over_its_goal_is_missed() -> None:
    rows = [("a", "", 0.0, "<="), ("b", "", 0.0, "<="), ("c", "", None, "")]
    assert missed(rows, {"a": 0.0, "b": 1.0, "c": 9.0}) == ["b"]
    assert missed(rows, {"a": float("nan"), "b": 0.0, "c": 9.0}) == ["a"]
