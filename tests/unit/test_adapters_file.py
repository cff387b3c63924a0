"""When the file of declared adapters counts as changed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sampler_server.adapters_file import AdaptersFile

SETTLED = 1 << 62


def swap(directory: Path, content: str) -> None:
    """As the kubelet does it: a new directory, then the link to it is replaced."""
    fresh = directory / f"..{content}"
    fresh.mkdir()
    (fresh / "adapters.json").write_text(content)
    (directory / "..tmp").symlink_to(fresh.name)
    (directory / "..tmp").rename(directory / "..data")
    if not (directory / "adapters.json").is_symlink():
        (directory / "adapters.json").symlink_to("..data/adapters.json")


def write(directory: Path, content: str) -> None:
    (directory / "adapters.json").write_text(content)


@pytest.mark.parametrize("change", [swap, write], ids=["swapped", "written in place"])
def test_a_change_is_seen_once(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    file = AdaptersFile(tmp_path)
    assert file.changed() == b""
    assert file.changed() is None
    for content in ("one", "two"):
        change(tmp_path, content)
        assert file.changed() == content.encode()
        assert file.changed() is None


def test_a_change_within_a_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    file = AdaptersFile(tmp_path)
    write(tmp_path, "one")
    stamp = (tmp_path / "adapters.json").stat()
    assert file.changed() == b"one"
    write(tmp_path, "two")
    os.utime(tmp_path / "adapters.json", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert file.changed() == b"two"


def test_a_file_that_has_settled_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AdaptersFile(tmp_path, now_ns=lambda: SETTLED)
    write(tmp_path, "one")
    assert file.changed() == b"one"
    monkeypatch.delattr(Path, "read_bytes")
    assert file.changed() is None


def test_a_file_that_goes_away_is_empty(tmp_path: Path) -> None:
    file = AdaptersFile(tmp_path)
    write(tmp_path, "one")
    assert file.changed() == b"one"
    (tmp_path / "adapters.json").unlink()
    assert file.changed() == b""
