"""Copies of adapters last as long as somebody holds them, and no longer."""

import subprocess
import sys
from pathlib import Path

from tests.raw_adapters import raw_snapshot

from sampler_core.adapters import snapshot_adapter
from sampler_core.aliases import AdapterAliases
from sampler_core.kept_snapshots import KeptSnapshots

ONE, TWO = (raw_snapshot(seed) for seed in range(2))


def write(directory: Path, seed: int) -> Path:
    """A trainer's directory with the adapter of ``seed``, written over what is there."""
    directory.mkdir(exist_ok=True)
    for name, content in raw_snapshot(seed).files.items():
        (directory / name).write_bytes(content)
    return directory


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def aliases_with(directory: Path) -> AdapterAliases:
    directory.mkdir()
    return AdapterAliases(lambda: directory)


def publish(aliases: AdapterAliases, name: str, directory: Path) -> None:
    aliases.commit(aliases.bind(name, directory, None, lambda _: ""))


def test_a_copy_goes_with_the_last_who_holds_it(tmp_path: Path) -> None:
    snapshots = KeptSnapshots(lambda: tmp_path)
    first = snapshots.keep(ONE)
    again, other = snapshots.keep(ONE), snapshots.keep(TWO)
    assert again is first
    assert len(names_in(tmp_path)) == 2
    del first
    assert snapshot_adapter(again.path).digest == ONE.digest
    del again
    assert names_in(tmp_path) == [Path(other.path).name]


def test_bytes_that_come_back_are_copied_anew(tmp_path: Path) -> None:
    snapshots = KeptSnapshots(lambda: tmp_path)
    first = snapshots.keep(ONE)
    path = first.path
    del first
    assert snapshots.keep(ONE).path != path


def test_a_path_is_shown_as_its_source_while_its_copy_is_there(tmp_path: Path) -> None:
    source = write(tmp_path / "trainer", 0)
    snapshots = KeptSnapshots(lambda: tmp_path)
    kept = snapshots.keep(snapshot_adapter(source))
    assert snapshots.source_of(kept.path) == str(source)
    assert snapshots.source_of("/elsewhere") == "/elsewhere"


def test_many_publications_leave_one_copy_a_name(tmp_path: Path) -> None:
    aliases = aliases_with(tmp_path / "copies")
    for seed in range(30):
        for name in ("policy", "judge"):
            publish(aliases, name, write(tmp_path / name, seed * (1 + len(name))))
            assert len(names_in(tmp_path / "copies")) <= 2
    assert len(names_in(tmp_path / "copies")) == 2


def test_a_call_holds_the_copy_that_it_began_with(tmp_path: Path) -> None:
    aliases = aliases_with(tmp_path / "copies")
    publish(aliases, "policy", write(tmp_path / "policy", 0))
    call = aliases.get("policy")
    publish(aliases, "policy", write(tmp_path / "policy", 1))
    assert call.revision.path is not None
    assert snapshot_adapter(call.revision.path).digest == call.revision.digest
    assert len(names_in(tmp_path / "copies")) == 2
    del call
    assert len(names_in(tmp_path / "copies")) == 1


def test_many_directories_without_a_name_are_bounded(tmp_path: Path) -> None:
    aliases = aliases_with(tmp_path / "copies")
    for seed in range(40):
        aliases.of_path(str(write(tmp_path / f"step-{seed}", seed)), "")
    assert len(names_in(tmp_path / "copies")) == 16


_FORKED = """
import os, sys
from pathlib import Path
from sampler_core.kept_snapshots import KeptSnapshot
(Path(sys.argv[1]) / "file").touch()
kept = KeptSnapshot(Path(sys.argv[1]), "source")
if not os.fork():
    del kept
    os._exit(0)
os.wait()
assert (Path(sys.argv[1]) / "file").exists()
del kept
assert not Path(sys.argv[1]).exists()
"""


def test_a_forked_child_that_forgets_a_copy_leaves_the_files(tmp_path: Path) -> None:
    # In a process without threads, which a fork would leave behind.
    subprocess.run([sys.executable, "-c", _FORKED, str(tmp_path)], check=True)
