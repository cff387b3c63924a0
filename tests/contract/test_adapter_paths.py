"""Paths of adapters over HTTP: read below the roots alone; a wrong one fails its own call alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.raw_adapters import write_adapter
from tests.servers import Server

from sampler_core.adapters import snapshot_adapter
from sampler_core.seeds import child_seed
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.tokens import sim_sequence


@dataclass(frozen=True)
class Served:
    """A server with one root, and adapters in it and beside it."""

    server: Server
    folder: Path
    inside: str
    outside: str

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def sample(self, adapter: dict[str, Any] | None) -> dict[str, Any]:
        body = {
            "inputs": [{"input_ids": [7]}, {"input_ids": [8]}],
            "sampling_params": {"max_tokens": 5, "seed": 1},
            "adapter": adapter,
        }
        answer = httpx.post(self.server.url + "/v1/sample", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("paths")
    inside = write_adapter(folder / "root" / "inside", 1)
    outside = write_adapter(folder / "outside", 2)
    (folder / "root" / "link").symlink_to(outside)
    digests = [snapshot_adapter(each).digest for each in (inside, outside)]
    with Server("--adapter-root", str(folder / "root")) as server:
        yield Served(server, folder, *digests)
        assert server.stop() == 0
    assert "Traceback" not in server.log


def tokens(prompt: int, index: int, adapter: str | None) -> list[int]:
    return sim_sequence([prompt], child_seed(1, index, 0), base_digest(), adapter, 5)[0]


def tokens_of(answer: dict[str, Any]) -> list[list[int]]:
    return [entry["sequences"][0]["tokens"] for entry in answer["responses"]]


@pytest.mark.rule("S10.11", "S10.15", only=("remote",))
@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        pytest.param(
            "{root}/link",
            "adapter_invalid",
            "{root}/link: a symlink leads outside the adapter roots ({root})",
            id="a symlink out of the root is refused",
        ),
        pytest.param(
            "{folder}/outside",
            "adapter_invalid",
            "{folder}/outside: outside the adapter roots ({root})",
            id="a directory outside the root is refused",
        ),
        pytest.param(
            "{root}/../outside",
            "adapter_invalid",
            "{root}/../outside: outside the adapter roots ({root})",
            id="dots that lead out of the root are refused",
        ),
        pytest.param(
            "{root}/nothing",
            "adapter_missing",
            "{root}/nothing: does not exist (adapter roots: {root})",
            id="a directory that is missing is told as that",
        ),
        pytest.param(
            "root/inside",
            "adapter_invalid",
            "root/inside: must be an absolute path below an adapter root (roots: {root})",
            id="a relative path is refused",
        ),
        pytest.param(
            "{root}/a\0b",
            "adapter_invalid",
            "{root}/a\0b: cannot be read (embedded null byte)",
            id="a path with a NUL is refused",
        ),
        pytest.param(
            "{root}/inside",
            "adapter_missing",
            "{root}/inside: expected adapter sha256:",
            id="another adapter than was named is not served",
        ),
    ],
)
def test_a_path_that_cannot_be_read(served: Served, path: str, code: str, message: str) -> None:
    names = {"root": served.root, "folder": served.folder}
    bad = {"digest": served.outside, "path": path.format(**names)}
    good = {"digest": served.inside, "path": str(served.root / "inside")}
    with ThreadPoolExecutor(3) as pool:
        refused, adapted, plain = pool.map(served.sample, [bad, good, None])
    for entry in refused["responses"]:
        (sequence,) = entry["sequences"]
        assert (sequence["tokens"], sequence["stop_reason"]) == ([], "error")
        error = sequence["error"]
        assert (error["code"], error["field"]) == (code, "adapter.path")
        assert error["message"].startswith(message.format(**names))
    assert tokens_of(adapted) == [tokens(7, 0, served.inside), tokens(8, 1, served.inside)]
    assert tokens_of(plain) == [tokens(7, 0, None), tokens(8, 1, None)]


@pytest.mark.parametrize("path", [5, ["/a"], {}], ids=["a number", "a list", "an object"])
def test_a_path_that_is_no_text_is_refused_by_the_name_of_its_field(
    served: Served, path: Any
) -> None:
    adapter = {"digest": served.inside, "path": path}
    body = {"inputs": [{"input_ids": [7]}], "adapter": adapter}
    answer = httpx.post(served.server.url + "/v1/sample", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_request", "adapter.path")
    assert error["message"].startswith("adapter.path: must be a text")
