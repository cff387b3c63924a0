"""Folders that do not outlive their process, whoever comes and goes at the same time."""

import gc
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampler_server.scratch import ScratchFolder

_OWNER = """
import sys, time
from pathlib import Path
from sampler_server.scratch import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
(folder.path / "adapter").write_bytes(b"x" * 1000)
print(folder.path, flush=True)
sys.stdin.read()
"""


def abandon(parent: Path, name: str) -> Path:
    """What a process leaves that was killed."""
    folder = parent / name
    folder.mkdir()
    (folder / "adapter").write_bytes(b"x")
    (parent / f"{name}.lock").touch()
    return folder


def test_a_folder_is_private_and_goes_when_it_is_closed(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path) as folder:
        (folder.path / "file").touch()
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_forgotten_goes_too(tmp_path: Path) -> None:
    folder = ScratchFolder(tmp_path)
    del folder
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_is_cleaned_up_after_and_a_living_one_is_not(tmp_path: Path) -> None:
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    paths = []
    for owner in owners:
        assert owner.stdout is not None
        paths.append(Path(owner.stdout.readline().strip()))
    killed, living = paths
    owners[0].kill()
    owners[0].wait()
    assert (killed / "adapter").exists()
    with ScratchFolder(tmp_path) as folder:
        assert not killed.exists()
        assert (living / "adapter").exists()
        owners[1].communicate()
        assert {path.stem for path in tmp_path.iterdir()} == {folder.path.name}
    owners[0].communicate()


def test_many_that_start_at_once_clean_up_together_and_keep_their_own(tmp_path: Path) -> None:
    left = [abandon(tmp_path, f"left-{number}") for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: ScratchFolder(tmp_path), range(24)))
    assert not any(path.exists() for path in left)
    assert all(folder.path.is_dir() for folder in folders)
    assert len({folder.path for folder in folders}) == len(folders)
    for folder in folders:
        folder.close()
    assert list(tmp_path.iterdir()) == []


_FORKED = """
import os, sys
from pathlib import Path
from sampler_server.scratch import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
if not os.fork():
    folder.close()
    os._exit(0)
os.wait()
ScratchFolder(Path(sys.argv[1])).close()
assert folder.path.is_dir()
folder.close()
assert not folder.path.exists()
"""


def test_a_forked_child_leaves_its_parents_folder(tmp_path: Path) -> None:
    # In a process without threads, which a fork would leave behind.
    subprocess.run([sys.executable, "-c", _FORKED, str(tmp_path)], check=True)


def test_a_parent_that_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ScratchFolder() as folder:
        parent = folder.path.parent
    assert parent.parent == tmp_path
    parent.chmod(0o777)
    with pytest.raises(PermissionError, match="set TMPDIR"):
        ScratchFolder()
    parent.rmdir()
    parent.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="set TMPDIR"):
        ScratchFolder()
