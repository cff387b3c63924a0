"""What adapters leave on disk: bounded while a sampler publishes, gone once a server was killed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.raw_adapters import raw_snapshot, write_adapter
from tests.servers import Server
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import tiny_model

from sampler_server import TorchSampler

_OURS = f"sampler-{os.getuid()}"
SHORT = {"max_tokens": 2}
LONG = {"max_tokens": 1500, "ignore_eos": True}


class Trainer:
    """A directory that is overwritten with a new revision time after time."""

    def __init__(self, adapter: Path, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(adapter, directory)
        self._step = 0

    def step(self) -> Path:
        self._step += 1
        config = self.directory / "adapter_config.json"
        values = json.loads(config.read_text()) | {"lora_alpha": self._step}
        config.write_text(json.dumps(values))
        return self.directory


def copies(directory: Path) -> list[str]:
    """The snapshots of a sampler of this process whose temporary directory is ``directory``."""
    return sorted(path.name for path in directory.glob(f"{_OURS}/*/snapshots/*"))


@pytest.fixture(scope="module")
def model() -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def adapter() -> Path:
    return tiny_adapter("a1")


@pytest.fixture
def scratch(model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of this process and of those that it starts.

    Another one than models are cached in, which are there before it is set.
    """
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


@pytest.fixture
def trainer(adapter: Path, tmp_path: Path) -> Trainer:
    return Trainer(adapter, tmp_path / "trainer")


@pytest.fixture
def sampler(model: Path, scratch: Path) -> Iterator[TorchSampler]:
    with TorchSampler(str(model), device="cpu", threads=1, max_adapters=2) as sampler:
        yield sampler


def test_many_publications_leave_one_copy(
    sampler: TorchSampler, trainer: Trainer, scratch: Path
) -> None:
    seen = set()
    for _ in range(25):
        bound = sampler.add_adapter_to_model("policy", trainer.step())
        seen.add(bound.digest)
        found = sampler.sample({"input_ids": [5, 6]}, SHORT, "policy")
        revision = found.sequences[0].revision
        assert revision is not None
        assert revision.adapter == bound.digest
        assert len(copies(scratch)) == 1
    assert len(seen) == 25
    sampler.close()
    assert not list(scratch.glob(f"{_OURS}/*"))


def test_a_copy_stays_while_a_sequence_of_its_revision_runs(
    sampler: TorchSampler, trainer: Trainer, scratch: Path
) -> None:
    old = sampler.add_adapter_to_model("policy", trainer.step())
    stream = sampler.sample_stream([{"input_ids": [5, 6]}] * 3, LONG, "policy")
    assert next(stream)[1].sequences[0].tokens
    # As many as push the old revision out of the engine's slots once it is not in use.
    for _ in range(4):
        sampler.add_adapter_to_model("policy", trainer.step())
    assert len(copies(scratch)) == 2
    for _, response in stream:
        revision = response.sequences[0].revision
        assert revision is not None
        assert revision.adapter == old.digest
    stream.close()
    del stream
    assert len(copies(scratch)) == 1


def test_a_killed_servers_copies_go_when_the_next_one_starts(scratch: Path, tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    digest = raw_snapshot().digest
    write_adapter(root / "one")
    body = json.dumps({"digest": digest, "path": str(root / "one")}).encode()

    def stored() -> int:
        return len(list(scratch.glob(f"{_OURS}/*/*/adapter_model.safetensors")))

    with ExitStack() as running:
        killed, living = (running.enter_context(Server(f"--adapter-root={root}")) for _ in range(2))
        for server in (killed, living):
            assert server.data.post("/v1/adapters", body)[0] == 201
        killed.kill()
        assert stored() == 2
        running.enter_context(Server(f"--adapter-root={root}"))
        assert stored() == 1
        assert living.data.get("/v1/adapters")[1]["adapters"][0]["digest"] == digest
    assert not list(scratch.glob(f"{_OURS}/*"))
