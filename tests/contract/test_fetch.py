"""``sampler fetch`` against a hub on loopback: what is downloaded, once and whole, and where to."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fake_hub import FakeHub
from tests.servers import Server
from tests.tiny_models import tiny_model

from sampler_core.bases import base_digest

REPOSITORY = "me/tiny"
WEIGHTS = bytes(range(256)) * 40_000


def write_files(folder: Path, **changes: bytes) -> Path:
    """A repository as people publish them: several formats of the same weights."""
    files = {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"pickled",
        "original/consolidated.00.safetensors": b"again",
        "README.md": b"read me",
        "templates/chat.jinja": b"{{ x }}",
        **changes,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class Fetcher:
    """Runs the command with its own folder, home and hub."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.cache = folder / "cache"
        self.log = folder / "termination-log"
        self.environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "home"),
            "SAMPLER_TERMINATION_LOG": str(self.log),
            "PYTHONWARNINGS": "",
        }

    def start(self, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "sampler_cli.main", "fetch", "--cache", str(self.cache)]
        return subprocess.Popen(
            [*command, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def __call__(self, *words: str) -> dict[str, Any]:
        """What it printed; it must succeed."""
        with self.start(*words) as process:
            output, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
        (line,) = output.splitlines()
        printed: dict[str, Any] = json.loads(line)
        return printed

    def refused(self, *words: str) -> tuple[int, str]:
        """The exit code, and the one line that it left."""
        with self.start(*words) as process:
            output, errors = process.communicate(timeout=50)
        assert output == ""
        assert self.log.read_text() == errors.splitlines()[-1] + "\n"
        return process.returncode, self.log.read_text()

    @property
    def complete(self) -> list[str]:
        """Models that somebody could serve."""
        return sorted(path.name for path in self.cache.glob("[!.]*"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub(REPOSITORY) as hub:
        hub.commit(write_files(tmp_path / "published"))
        yield hub


@pytest.fixture
def fetch(tmp_path: Path, hub: FakeHub) -> Fetcher:
    return Fetcher(tmp_path, hub)


def test_a_model_is_downloaded_once_under_its_commit(hub: FakeHub, fetch: Fetcher) -> None:
    first = fetch(f"hf://{REPOSITORY}")
    commit = hub.branches["main"]
    assert first == {
        "directory": str(fetch.cache / f"me--tiny@{commit}"),
        "repository": REPOSITORY,
        "commit": commit,
        "is_new": True,
    }
    directory = Path(first["directory"])
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "templates/chat.jinja"}
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert fetch(f"hf://{REPOSITORY}") == {**first, "is_new": False}
    assert hub.downloads == []


def test_a_link_follows_the_branch_and_what_is_served_stays(
    hub: FakeHub, fetch: Fetcher, tmp_path: Path
) -> None:
    link = tmp_path / "links" / "model"
    before = fetch(REPOSITORY, "--link", str(link))
    assert link.resolve() == Path(before["directory"])
    hub.commit(write_files(tmp_path / "later", **{"config.json": b'{"a": 1}'}))
    after = fetch(REPOSITORY, "--link", str(link))
    assert link.resolve() == Path(after["directory"]) != Path(before["directory"])
    assert Path(before["directory"]).is_dir()
    assert [path.name for path in link.parent.iterdir()] == ["model"]


def test_a_commit_that_is_there_needs_no_hub(fetch: Fetcher) -> None:
    commit = fetch(REPOSITORY)["commit"]
    fetch.environment["HF_ENDPOINT"] = "http://127.0.0.1:1"
    assert fetch(REPOSITORY, "--revision", commit)["is_new"] is False


def test_a_download_that_was_killed_leaves_nothing_to_serve_and_the_next_is_whole(
    hub: FakeHub, fetch: Fetcher
) -> None:
    hub.gate = threading.Event()
    with fetch.start(REPOSITORY) as process:
        assert hub.is_asked.wait(50)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=50)
    assert fetch.complete == []
    hub.gate.set()
    directory = Path(fetch(REPOSITORY)["directory"])
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert fetch.complete == [directory.name]
    assert not list(fetch.cache.glob(".*draft"))


def test_two_at_a_time_download_once(hub: FakeHub, fetch: Fetcher) -> None:
    hub.gate = threading.Event()
    with fetch.start(REPOSITORY) as first:
        assert hub.is_asked.wait(50)
        with fetch.start(REPOSITORY) as second:
            assert second.stderr is not None
            assert "another process" in second.stderr.readline()
            hub.gate.set()
            outputs = [process.communicate(timeout=50)[0] for process in (first, second)]
    assert [json.loads(output)["is_new"] for output in outputs] == [True, False]
    assert sorted(hub.downloads) == sorted(set(hub.downloads))


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        pytest.param(["file:///models/a"], 2, "sampler serve --model", id="a directory"),
        pytest.param(["pvc://claim/a"], 2, "pvc://claim/a", id="a volume"),
        pytest.param(["hf://me/a/b"], 2, "hf://owner/name", id="no repository"),
        pytest.param(["hf://me/absent"], 1, "HF_TOKEN", id="a repository that is not there"),
        pytest.param([REPOSITORY, "--revision", "dev"], 1, "revision", id="no such branch"),
        pytest.param([REPOSITORY, "--link", "/"], 2, "/ exists", id="a link that is a folder"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    fetch: Fetcher, words: list[str], code: int, named: str
) -> None:
    got, line = fetch.refused(*words)
    assert got == code
    assert line.startswith("sampler fetch: ")
    assert named in line


def test_a_repository_without_weights_is_refused_by_its_name(
    hub: FakeHub, fetch: Fetcher, tmp_path: Path
) -> None:
    pickled = write_files(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    commit = hub.commit(pickled)
    code, line = fetch.refused(REPOSITORY)
    assert code == 1
    assert f"{REPOSITORY}@{commit}: holds no weights" in line
    assert fetch.complete == []


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:1"}, id="nobody listens there"),
        pytest.param({"HF_HUB_OFFLINE": "1"}, id="the hub is switched off"),
    ],
)
def test_without_a_hub_a_branch_cannot_be_resolved(
    fetch: Fetcher, variables: dict[str, str]
) -> None:
    fetch.environment |= variables
    code, line = fetch.refused(REPOSITORY)
    assert code == 1
    assert "the hub cannot be reached" in line
    assert "--revision" in line


def test_a_fetched_model_is_served_by_its_link_without_a_hub(
    hub: FakeHub, fetch: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    hub.commit(tiny_model())
    link = tmp_path / "model"
    fetch(REPOSITORY, "--link", str(link))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = ("--device", "cpu", "--threads", "1", "--dtype", "float32")
    with Server("--model", f"file://{link}", *options, engine="torch") as server:
        (model,) = httpx.get(server.url + "/v1/models").json()["data"]
        assert model["base"] == base_digest(tiny_model())
