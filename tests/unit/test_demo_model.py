"""The demo's model: when it counts as there, and where it is kept."""

import hashlib
from pathlib import Path

import pytest
from demo import smollm2
from demo.smollm2 import ensure_model, is_complete, models_folder
from demo.wheel import WheelError, verify


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of four bytes are enough."""
    monkeypatch.setattr(smollm2, "_WEIGHT_BYTES", 4)


def fill(folder: Path, weights: bytes = b"1234") -> None:
    folder.mkdir(parents=True)
    for name in smollm2._FILES:
        (folder / name).write_bytes(weights if name == "model.safetensors" else b"{}")


def test_models_are_kept_below_xdg_cache_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "sampler-operator" / "models"


def test_without_xdg_cache_home_they_are_below_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / ".cache" / "sampler-operator" / "models"


def test_a_folder_with_all_files_is_complete(small_model: None, tmp_path: Path) -> None:
    fill(tmp_path / "model")
    assert is_complete(tmp_path / "model")


@pytest.mark.parametrize("name", smollm2._FILES)
def test_a_folder_without_one_of_them_is_not(small_model: None, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    assert not is_complete(tmp_path / "model")


def test_weights_that_are_too_short_do_not_count(small_model: None, tmp_path: Path) -> None:
    fill(tmp_path / "model", weights=b"123")
    assert not is_complete(tmp_path / "model")


def test_a_complete_model_is_used_as_it_is(
    small_model: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = models_folder() / smollm2.NAME
    fill(folder)
    lines: list[str] = []
    assert ensure_model(lines.append) == folder
    assert lines == [f"model: SmolLM2-135M-Instruct is in {folder}"]


def test_a_wheel_of_the_expected_digest_passes(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"content")
    verify(wheel, hashlib.sha256(b"content").hexdigest())


def test_a_wheel_of_another_digest_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"other content")
    with pytest.raises(WheelError, match=r"a\.whl has sha256 .* the index serves another file"):
        verify(wheel, hashlib.sha256(b"content").hexdigest())
