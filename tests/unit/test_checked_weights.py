"""What may take the place of a base, and what is refused, with the name of the file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.raw_bases import CONFIG, INDEX, SHARDS, WEIGHTS, write_base, write_shard

from sampler_api.errors import SamplerError, Unsupported, WeightsInvalid
from sampler_core.bases import base_digest
from sampler_core.checked_weights import (
    BaseLayout,
    CheckedWeights,
    base_layout,
    check_weights,
    weights_directory,
)
from sampler_core.safetensors_file import Tensor, encode_safetensors


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def layout(tmp_path: Path) -> BaseLayout:
    return base_layout(write_base(tmp_path / "base"))


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_base(tmp_path / "new", 1)


def check(new: Path, layout: BaseLayout | None, roots: list[Path] | None = None) -> CheckedWeights:
    return check_weights(new, layout, roots, pause=lambda seconds: None)


def config(new: Path, **changes: object) -> None:
    kept = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    (new / "config.json").write_text(json.dumps(kept))


def values(new: Path, value: float, dtype: str = "F32") -> None:
    """All of one tensor, in the middle of a good file."""
    shapes = WEIGHTS[SHARDS[1]]
    tensors = {}
    for name, shape in shapes.items():
        data = np.full(shape, value if name == "model.norm.weight" else 1.0, np.float32)
        tensors[name] = Tensor(name, dtype, shape, memoryview(data.tobytes()))
    (new / SHARDS[1]).write_bytes(encode_safetensors(tensors))


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


def pickled(new: Path) -> None:
    for name in (*SHARDS, INDEX):
        (new / name).unlink()
    (new / "pytorch_model.bin").write_bytes(b"x")


def test_other_values_of_the_same_base_are_known_by_their_digest(
    new: Path, layout: BaseLayout
) -> None:
    assert check(new, layout) == check(new, None)
    assert check(new, layout).digest == base_digest(new)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda m: config(m, transformers_version="6"), id="written by another version"
        ),
        pytest.param(lambda m: config(m, dtype=None), id="a config that does not name the dtype"),
        pytest.param(lambda m: (m / "optimizer.pt").write_bytes(b"x"), id="more beside it"),
    ],
)
def test_what_changes_nothing_is_let_pass(
    change: Callable[[Path], object], new: Path, layout: BaseLayout
) -> None:
    change(new)
    check(new, layout).check_unchanged()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda m: cut(m / SHARDS[0], 3), SHARDS[0], id="a truncated shard"),
        pytest.param(lambda m: (m / SHARDS[1]).unlink(), SHARDS[1], id="a missing shard"),
        pytest.param(lambda m: (m / SHARDS[1]).write_bytes(b""), SHARDS[1], id="an empty shard"),
        pytest.param(pickled, "pickle", id="a pickle"),
        pytest.param(
            lambda m: write_shard(m / SHARDS[0], {**WEIGHTS[SHARDS[0]], "model.a.weight": (3, 4)}),
            "'model.a.weight' has the shape",
            id="another shape of the same size",
        ),
        pytest.param(
            lambda m: write_shard(m / SHARDS[0], WEIGHTS[SHARDS[0]], dtype="F16"),
            "'model.a.weight' is F16, the base F32",
            id="another dtype",
        ),
        pytest.param(
            lambda m: write_shard(m / SHARDS[0], {"model.a.weight": (4, 3)}),
            "no tensor 'model.b.weight'",
            id="a tensor less",
        ),
        pytest.param(
            lambda m: write_shard(m / SHARDS[0], {**WEIGHTS[SHARDS[0]], "model.c.weight": (1,)}),
            "'model.c.weight' is no tensor of the base",
            id="a tensor more",
        ),
        pytest.param(lambda m: values(m, float("nan")), "'model.norm.weight' holds NaN", id="NaN"),
        pytest.param(
            lambda m: values(m, -float("inf")), "'model.norm.weight' holds infinity", id="infinity"
        ),
        pytest.param(
            lambda m: config(m, hidden_size=4), "hidden_size: 4, the base has 3", id="config"
        ),
        pytest.param(lambda m: config(m, dtype="bfloat16"), "dtype: 'bfloat16'", id="its dtype"),
        pytest.param(lambda m: (m / "config.json").unlink(), "config.json", id="no config"),
        pytest.param(
            lambda m: (m / "tokenizer.json").write_text("{} "), "tokenizer.json", id="tokenizer"
        ),
        pytest.param(
            lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json: is missing", id="none"
        ),
        pytest.param(
            lambda m: (m / "chat_template.jinja").write_text("x"),
            "chat_template.jinja",
            id="another chat template",
        ),
    ],
)
def test_anything_else_is_refused_and_named(
    change: Callable[[Path], object], told: str, new: Path, layout: BaseLayout
) -> None:
    change(new)
    with pytest.raises(WeightsInvalid) as caught:
        check(new, layout)
    assert told in str(caught.value)
    assert caught.value.field == "directory"


def test_a_file_that_cannot_be_read_is_named(
    new: Path, layout: BaseLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    class Broken:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def seek(self, _: int) -> None:
            raise OSError(5, "Input/output error")

    def broken(path: Path, *args: object, **kwargs: object) -> object:
        file = opened(path, *args, **kwargs)  # type: ignore[call-overload]
        return Broken(file) if path.name == SHARDS[1] else file

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(
        WeightsInvalid, match=rf"{SHARDS[1]}: cannot be read \(Input/output error\)"
    ):
        check(new, layout)


def test_a_file_that_is_replaced_later_is_noticed(new: Path, layout: BaseLayout) -> None:
    checked = check(new, layout)
    checked.check_unchanged()
    write_shard(new / "draft", WEIGHTS[SHARDS[0]], 7)
    os.replace(new / "draft", new / SHARDS[0])
    with pytest.raises(WeightsInvalid, match=SHARDS[0]):
        checked.check_unchanged()


def test_a_file_that_was_written_just_now_is_let_settle(new: Path, layout: BaseLayout) -> None:
    youngest = max(path.stat().st_mtime_ns for path in new.iterdir())
    paused: list[float] = []
    check_weights(new, layout, now_ns=lambda: youngest + 1_000_000, pause=paused.append)
    check_weights(new, layout, now_ns=lambda: youngest + 1_000_000_000, pause=paused.append)
    assert paused == [0.05]


def test_only_what_is_below_a_root_is_read(new: Path, layout: BaseLayout, tmp_path: Path) -> None:
    assert check(new, layout, [tmp_path]).digest == base_digest(new)
    with pytest.raises(WeightsInvalid, match="outside the adapter roots"):
        check(new, layout, [tmp_path / "base"])
    (new / SHARDS[0]).rename(tmp_path / "elsewhere")
    (new / SHARDS[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsInvalid, match="a symlink leads outside"):
        check(new, layout, [new])
    with pytest.raises(WeightsInvalid, match="does not exist"):
        check(tmp_path / "nothing", layout, [tmp_path])
    with pytest.raises(WeightsInvalid, match="outside"):
        check(new, layout, [])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param("hf://org/model", Unsupported, id="a hub"),
        pytest.param("s3://bucket/model", Unsupported, id="a bucket"),
        pytest.param("step-7", WeightsInvalid, id="a relative path"),
        pytest.param("", WeightsInvalid, id="nothing"),
    ],
)
def test_a_directory_is_an_absolute_path(text: str, error: type[SamplerError]) -> None:
    with pytest.raises(error) as caught:
        weights_directory(text)
    assert caught.value.field == "directory"


def test_a_uri_of_a_file_is_a_path() -> None:
    assert weights_directory("file:///a/b") == weights_directory("/a/b") == Path("/a/b")
