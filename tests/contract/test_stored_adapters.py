"""The server's store on disk: bounded, verified after a restart, never without what is in use."""

import errno
import os
from pathlib import Path

import pytest
from tests.raw_adapters import raw_snapshot

from sampler_api.errors import AdapterCapacity, AdapterInvalid
from sampler_core.adapters import AdapterSnapshot
from sampler_server.stored_adapters import StoredAdapters

ONE, TWO, THREE = (raw_snapshot(seed) for seed in range(3))


def accept(snapshot: AdapterSnapshot) -> None:
    """Every adapter may be served."""


def store(directory: Path, room_for: float = 10) -> StoredAdapters:
    return StoredAdapters(directory, int(ONE.total_bytes * room_for), accept)


def test_what_is_put_is_found_under_its_digest(tmp_path: Path) -> None:
    adapters = store(tmp_path)
    assert adapters.find(ONE.digest) is None
    path = adapters.put(ONE)
    assert path == tmp_path / ONE.digest.removeprefix("sha256:")
    assert adapters.find(ONE.digest) == path
    assert adapters.total_bytes == ONE.total_bytes


def test_the_least_recently_used_goes_when_the_disk_share_is_full(tmp_path: Path) -> None:
    adapters = store(tmp_path, 2.5)
    adapters.put(ONE)
    adapters.put(TWO)
    adapters.find(ONE.digest)
    adapters.put(THREE)
    assert adapters.digests() == [ONE.digest, THREE.digest]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_pinned_stays_even_over_the_bound(tmp_path: Path) -> None:
    adapters = store(tmp_path, 1.5)
    adapters.pin(ONE.digest)
    adapters.put(ONE)
    adapters.put(TWO)
    assert adapters.digests() == [ONE.digest, TWO.digest]
    adapters.unpin(ONE.digest)
    adapters.put(THREE)
    assert adapters.digests() == [THREE.digest]


def test_after_a_restart_what_is_there_is_found_again(tmp_path: Path) -> None:
    store(tmp_path).put(ONE)
    (tmp_path / ".draft-xyz").mkdir()
    (tmp_path / "lost+found").mkdir()
    again = store(tmp_path)
    assert again.digests() == [ONE.digest]
    assert again.find(ONE.digest) is not None
    assert not (tmp_path / ".draft-xyz").exists()
    assert (tmp_path / "lost+found").exists()


@pytest.mark.parametrize("how", ["other bytes", "truncated", "empty"])
def test_after_a_restart_what_was_damaged_is_dropped(how: str, tmp_path: Path) -> None:
    file = store(tmp_path).put(ONE) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    spoiled = {"other bytes": data, "truncated": data[:-1], "empty": bytearray()}[how]
    file.write_bytes(bytes(spoiled))
    again = store(tmp_path)
    assert again.find(ONE.digest) is None
    assert again.digests() == []
    again.put(ONE)
    assert again.find(ONE.digest) is not None


def test_after_a_restart_with_another_base_what_does_not_fit_is_dropped(tmp_path: Path) -> None:
    def refuse(snapshot: AdapterSnapshot) -> None:
        raise AdapterInvalid("for another base")

    store(tmp_path).put(ONE)
    assert StoredAdapters(tmp_path, 1 << 20, refuse).find(ONE.digest) is None


def test_a_full_disk_is_a_lack_of_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = store(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AdapterCapacity, match=f"no space for {ONE.total_bytes} bytes"):
        adapters.put(ONE)
    assert adapters.digests() == []
    assert list(tmp_path.iterdir()) == []
