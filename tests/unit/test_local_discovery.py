"""``local://NAME``: the state file of a fleet as a client sees it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sampler_api.errors import InvalidRequest, NoReplica
from sampler_api.fleet import LocalFleet, LocalReplica
from sampler_api.local_state import fleet_folder
from sampler_client import RemoteSampler
from sampler_client.discovery import Endpoint, discovery_of
from sampler_operator.local.folders import Folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("SAMPLER_STATE_DIR", str(tmp_path))
    return Folder(tmp_path / "policy")


def write(folder: Folder, *urls: str) -> None:
    replicas = tuple(LocalReplica(f"pod-{url[-1]}", (url,)) for url in urls)
    folder.write(folder.fleet, msgspec.json.encode(LocalFleet("policy", "u", 1, replicas)))


def endpoints(*urls: str) -> frozenset[Endpoint]:
    return frozenset(map(Endpoint, urls))


async def following(sets: AsyncIterator[frozenset[Endpoint]]) -> frozenset[Endpoint]:
    async with asyncio.timeout(4):
        return await anext(sets)


async def test_a_file_that_appears_changes_and_goes_is_followed(folder: Folder) -> None:
    sets = discovery_of("local://policy").watch()
    assert await following(sets) == frozenset()
    write(folder, "http://h:1")
    assert await following(sets) == endpoints("http://h:1")
    write(folder, "http://h:1", "http://h:2")
    assert await following(sets) == endpoints("http://h:1", "http://h:2")
    folder.fleet.unlink()
    assert await following(sets) == frozenset()


async def test_a_file_that_says_the_same_again_is_no_news(folder: Folder) -> None:
    write(folder, "http://h:1")
    sets = discovery_of("local://policy").watch()
    assert await following(sets) == endpoints("http://h:1")
    write(folder, "http://h:1")
    waiting = asyncio.ensure_future(anext(sets))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    write(folder, "http://h:2")
    assert await asyncio.wait_for(waiting, 4) == endpoints("http://h:2")


def test_an_unknown_fleet_is_told_with_its_file_and_the_command_that_starts_it(
    folder: Folder,
) -> None:
    with (
        RemoteSampler("local://policy", tick=0.05, first_reply_timeout=0.3) as sampler,
        pytest.raises(NoReplica, match="sampler up -f") as caught,
    ):
        sampler.sample({"input_ids": [1]}, {"max_tokens": 1})
    assert str(folder.fleet) in str(caught.value)


def test_a_fleet_without_a_ready_replica_points_to_its_status(folder: Folder) -> None:
    write(folder)
    assert "`sampler status policy`" in discovery_of("local://policy").description


@pytest.mark.parametrize("target", ["local://", "local://A", "local://../x", "local://a/b"])
def test_a_name_that_cannot_be_one_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match="must be local://NAME"):
        discovery_of(target)


def test_the_folder_is_where_the_environment_says(tmp_path: Path) -> None:
    assert fleet_folder({"SAMPLER_STATE_DIR": "/s"}, "a") == Path("/s/a")
    assert fleet_folder({"XDG_STATE_HOME": "/x"}, "a") == Path("/x/sampler/a")
    assert fleet_folder({}, "a") == Path.home() / ".local/state/sampler/a"


def test_one_runtime_holds_a_folder(folder: Folder) -> None:
    assert folder.holder() == 0
    with folder.lock():
        assert folder.holder() > 0
    assert folder.holder() == 0


def test_the_logs_of_the_last_pods_are_kept_and_that_of_the_runtime(folder: Folder) -> None:
    folder.make()
    folder.runtime_log.write_text("first")
    for number in range(105):
        folder.log_of(f"policy-a-{number}").write_text("x")
        os.utime(folder.logs / f"policy-a-{number}.log", (number, number))
    kept = {path.name for path in folder.logs.iterdir()}
    assert kept == {"runtime.log", *(f"policy-a-{number}.log" for number in range(5, 105))}
