"""An adapter's directory is read once, whole, below the roots, or refused in words."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.raw_adapters import adapter_config, raw_snapshot, write_adapter

from sampler_api.errors import AdapterInvalid, AdapterMissing
from sampler_core import adapter_files
from sampler_core.adapter_files import read_adapter_files
from sampler_core.adapters import snapshot_adapter

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def without_tensors(directory: Path) -> None:
    (directory / TENSORS).unlink()


def pickled(directory: Path) -> None:
    (directory / TENSORS).rename(directory / "adapter_model.bin")


def in_a_directory_below(directory: Path) -> None:
    (directory / "step-3").mkdir()
    for name in (CONFIG, TENSORS):
        (directory / name).rename(directory / "step-3" / name)


def cut_in_half(directory: Path) -> None:
    data = (directory / TENSORS).read_bytes()
    (directory / TENSORS).write_bytes(data[: len(data) // 2])


def with_a_pipe(directory: Path) -> None:
    (directory / CONFIG).unlink()
    os.mkfifo(directory / CONFIG)


def with_a_directory_inside(directory: Path) -> None:
    (directory / CONFIG).unlink()
    (directory / CONFIG).mkdir()


def with_half_a_config(directory: Path) -> None:
    (directory / CONFIG).write_text('{"r": 2,')


def with_a_link_to_nothing(directory: Path) -> None:
    (directory / CONFIG).unlink()
    (directory / CONFIG).symlink_to("nowhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(without_tensors, f"holds no {TENSORS}", id="no tensors"),
        pytest.param(
            pickled, r"adapter_model.bin is a pickle.*safe_serialization=True", id="only a pickle"
        ),
        pytest.param(
            in_a_directory_below,
            f"holds no {CONFIG}; step-3 below it has one",
            id="the adapter is one level deeper",
        ),
        pytest.param(cut_in_half, f"{TENSORS}: truncated", id="truncated tensors"),
        pytest.param(with_a_pipe, f"{CONFIG}: not a regular file", id="a named pipe"),
        pytest.param(
            with_a_directory_inside,
            f"{CONFIG}: not a regular file",
            id="a directory for a file",
        ),
        pytest.param(with_half_a_config, f"{CONFIG}: malformed JSON", id="half a config"),
        pytest.param(with_a_link_to_nothing, "cannot be read", id="a link to nothing"),
    ],
)
def test_an_unusable_directory_is_refused_with_what_to_do(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    directory = write_adapter(tmp_path / "a")
    spoil(directory)
    with pytest.raises(AdapterInvalid, match=message) as caught:
        snapshot_adapter(directory)
    assert str(directory) in str(caught.value)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match=r"nowhere: no such directory"):
        snapshot_adapter(tmp_path / "nowhere")


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a")
    with pytest.raises(AdapterInvalid, match="pass the directory"):
        snapshot_adapter(directory / TENSORS)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match="more than the 100 that are read"):
        snapshot_adapter(write_adapter(tmp_path / "a"), max_bytes=100)


def test_a_path_with_nul_is_refused() -> None:
    with pytest.raises(AdapterInvalid, match="NUL"):
        snapshot_adapter("a\0b")


class Roots:
    """A root, a place outside of it, and an adapter in each."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.inside = write_adapter(self.root / "a")
        self.outside = write_adapter(base / "elsewhere" / "a")

    def read(self, path: Path) -> dict[str, bytes]:
        return read_adapter_files(path, [self.root])


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


def test_a_directory_below_a_root_is_read(roots: Roots) -> None:
    assert set(roots.read(roots.inside)) == {CONFIG, TENSORS}


def test_links_that_stay_below_the_root_are_followed(roots: Roots) -> None:
    (roots.root / "latest").symlink_to("a")
    (roots.inside / "data").mkdir()
    (roots.inside / TENSORS).rename(roots.inside / "data" / "blob")
    (roots.inside / TENSORS).symlink_to("data/blob")
    assert set(roots.read(roots.root / "latest")) == {CONFIG, TENSORS}


def test_a_root_that_is_a_link_itself_works_under_both_names(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(roots.root)
    for path in (tmp_path / "alias" / "a", roots.inside):
        assert set(read_adapter_files(path, [tmp_path / "alias"])) == {CONFIG, TENSORS}


def test_a_path_outside_the_roots_is_refused_with_the_roots(roots: Roots) -> None:
    for path in (
        roots.outside,
        roots.root / ".." / "elsewhere" / "a",
        roots.root / "nothing/../..",
    ):
        with pytest.raises(AdapterInvalid, match=r"outside the adapter roots \(.*root\)") as caught:
            roots.read(path)
        assert str(path) in str(caught.value)


def test_whether_a_path_outside_exists_is_not_told(roots: Roots) -> None:
    with pytest.raises(AdapterInvalid, match="outside the adapter roots"):
        roots.read(roots.outside.parent / "nowhere")


def test_a_relative_path_is_refused(roots: Roots) -> None:
    with pytest.raises(AdapterInvalid, match="must be an absolute path"):
        roots.read(Path("a"))


def test_a_missing_directory_below_a_root_may_be_elsewhere(roots: Roots) -> None:
    with pytest.raises(AdapterMissing, match=r"gone: does not exist \(adapter roots: .*root\)"):
        roots.read(roots.root / "gone")


def test_a_directory_link_out_of_the_roots_is_refused(roots: Roots) -> None:
    (roots.root / "link").symlink_to(roots.outside)
    with pytest.raises(AdapterInvalid, match="a symlink leads outside the adapter roots"):
        roots.read(roots.root / "link")


def test_a_file_link_out_of_the_roots_is_refused(roots: Roots) -> None:
    (roots.inside / TENSORS).unlink()
    (roots.inside / TENSORS).symlink_to(roots.outside / TENSORS)
    with pytest.raises(AdapterInvalid, match="a symlink leads outside the adapter roots"):
        roots.read(roots.inside)


def test_a_link_to_itself_is_refused(roots: Roots) -> None:
    (roots.root / "loop").symlink_to("loop")
    with pytest.raises(AdapterInvalid, match="cannot be read"):
        roots.read(roots.root / "loop")


class Trainer:
    """Overwrites the directory between our reads, a given number of times."""

    def __init__(self, directory: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.left = times
        self.seed = 100
        self._read = adapter_files._read
        monkeypatch.setattr(adapter_files, "_read", self.read)

    def read(self, path: Path, limit: int) -> bytes:
        data = self._read(path, limit)
        if self.left:
            self.left -= 1
            self.seed += 1
            write_adapter(self.directory, self.seed, config=adapter_config(lora_alpha=self.seed))
        return data


def test_a_directory_that_is_overwritten_while_we_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_adapter(tmp_path / "a", 1)
    trainer = Trainer(directory, 1, monkeypatch)
    taken = snapshot_adapter(directory)
    assert taken.digest == raw_snapshot(trainer.seed, lora_alpha=trainer.seed).digest


def test_a_write_is_seen_by_the_times_of_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_adapter(tmp_path / "a", 1)
    Trainer(directory, 1, monkeypatch)
    files = read_adapter_files(directory, now_ns=lambda: 1 << 62)
    assert files == {name: (directory / name).read_bytes() for name in (CONFIG, TENSORS)}


def test_a_write_that_leaves_the_times_as_they_were_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a write within one tick of the kernel's clock does.
    monkeypatch.setattr(adapter_files, "_stamp", lambda path: (1, 1, 1, 1, 1))
    directory = write_adapter(tmp_path / "a", 1)
    trainer = Trainer(directory, 1, monkeypatch)
    files = read_adapter_files(directory, now_ns=lambda: 2)
    assert trainer.seed == 101
    assert files == {name: (directory / name).read_bytes() for name in (CONFIG, TENSORS)}


def test_a_directory_that_never_rests_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_adapter(tmp_path / "a", 1)
    Trainer(directory, 1000, monkeypatch)
    with pytest.raises(AdapterInvalid, match=r"kept changing .* write each step into a new direct"):
        snapshot_adapter(directory)
