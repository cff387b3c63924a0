"""An adapter store over an engine that keeps a diary, and a root with adapters."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tests.raw_adapters import (
    SHAPES,
    write_adapter,
)

from sampler_api.frames import RevisionRef
from sampler_core.adapters import snapshot_adapter
from sampler_server.adapters import AdapterStore
from sampler_server.engines.base import Engine, EngineInfo

__all__ = ["Diary", "World", "digest_of", "world"]


class Diary:
    """Stands for an engine: writes down loads and unloads, with the digest of what it was given."""

    info = EngineInfo("torch", "m", 32, 64, 4, 256, (0,), "sha256:base")

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.is_loading = threading.Event()

    def load_adapter(self, digest: str, directory: Path) -> None:
        self.is_loading.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        assert snapshot_adapter(directory).digest == digest
        self.entries.append(("load", digest))

    def unload_adapter(self, digest: str) -> None:
        if self.error is not None:
            raise self.error
        self.entries.append(("unload", digest))


class World:
    """A root with adapters, a place outside, an engine, and a store over them."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.root.mkdir()
        self.outside = base / "elsewhere"
        self.store_dir = base / "store"
        self.engine = Diary()
        self.operations: list[str] = []
        self.store = self.open()

    def open(self, max_adapters: int = 2, **values: Any) -> AdapterStore:
        values = {"roots": [self.root], "shapes": SHAPES, "max_rank": 8, **values}
        self.store = AdapterStore(
            self.store_dir,
            engine=cast(Engine, self.engine),
            max_adapters=max_adapters,
            operation=self.operation,
            **values,
        )
        return self.store

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        self.operations.append(f"begin {name}")
        yield
        self.operations.append(f"end {name}")

    def ref(self, seed: int, path: Path | None = None, **values: Any) -> RevisionRef:
        """The revision of a new adapter below the root."""
        directory = path or self.root / f"step-{seed}"
        write_adapter(directory, seed, **values)
        digest = snapshot_adapter(directory).digest
        return RevisionRef("sha256:base", digest, f"policy-{seed}", str(directory))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def digest_of(ref: RevisionRef) -> str:
    assert ref.adapter is not None
    return ref.adapter
