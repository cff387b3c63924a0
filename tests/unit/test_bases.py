"""The identity of a base is the content of its weights, its config and its tokenizer."""

import hashlib
import json
import os
import pwd
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sampler_api.errors import ModelInvalid
from sampler_core import digest_cache
from sampler_core.bases import base_digest, linear_shapes, tokenizer_digest, tokenizer_files
from sampler_core.digest_cache import cache_directory, file_sha256
from sampler_core.safetensors_file import Tensor, encode_safetensors

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard(path: Path, seed: int, names: tuple[str, ...], shape: tuple[int, ...] = (4, 3)) -> None:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in names:
        data = rng.normal(size=shape).astype(np.float32).tobytes()
        tensors[name] = Tensor(name, "F32", shape, memoryview(data))
    path.write_bytes(encode_safetensors(tensors))


def write_model(directory: Path) -> Path:
    """A model of two shards with a config and a tokenizer."""
    directory.mkdir()
    shard(directory / SHARDS[0], 0, ("model.a.weight", "model.b.weight"))
    shard(directory / SHARDS[1], 1, ("lm_head.weight",), (5, 3))
    names = {"model.a.weight": SHARDS[0], "model.b.weight": SHARDS[0], "lm_head.weight": SHARDS[1]}
    (directory / INDEX).write_text(json.dumps({"weight_map": names}))
    (directory / "config.json").write_text(
        json.dumps({"model_type": "x", "rope_theta": 1.0, "transformers_version": "5", "n": None})
    )
    (directory / "tokenizer.json").write_text("{}")
    return directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def edit_config(model: Path, **values: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **values}))


def test_the_digest_of_a_copy_is_the_same(model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other")
    assert base_digest(other, tmp_path / "c") == base_digest(str(model), tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda m: shard(m / SHARDS[1], 9, ("lm_head.weight",), (5, 3)),
            id="other values of the same shape",
        ),
        pytest.param(lambda m: edit_config(m, rope_theta=2.0), id="a config that computes else"),
        pytest.param(lambda m: (m / "tokenizer.json").write_text("{} "), id="another tokenizer"),
        pytest.param(
            lambda m: (m / "chat_template.jinja").write_text("x"), id="another chat template"
        ),
    ],
)
def test_another_model_has_another_digest(
    change: Callable[[Path], object], model: Path, tmp_path: Path
) -> None:
    before = base_digest(model, tmp_path / "c")
    change(model)
    assert base_digest(model, tmp_path / "c") != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: edit_config(m, transformers_version="4"), id="a library's version"),
        pytest.param(lambda m: edit_config(m, _name_or_path="x"), id="a name"),
        pytest.param(lambda m: (m / "README.md").write_text("x"), id="a text"),
        pytest.param(
            lambda m: shard(m / "consolidated.safetensors", 3, ("x",)),
            id="weights that the index does not name",
        ),
    ],
)
def test_the_same_model_told_differently_has_the_same_digest(
    change: Callable[[Path], object], model: Path, tmp_path: Path
) -> None:
    before = base_digest(model, tmp_path / "c")
    change(model)
    assert base_digest(model, tmp_path / "c") == before


def without(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def only_pickles(model: Path) -> None:
    for path in model.glob("*.safetensors*"):
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(without(SHARDS[1]), f"names {SHARDS[1]}, which is missing", id="a shard less"),
        pytest.param(only_pickles, "save the model again with save_pretrained", id="only pickles"),
        pytest.param(without("config.json"), "config.json: missing", id="no config"),
        pytest.param(
            lambda m: (m / "config.json").write_text("{"), "malformed JSON", id="half a config"
        ),
        pytest.param(
            lambda m: (m / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "../b"}}'
            ),
            "names ../b, which is missing",
            id="an index that points elsewhere",
        ),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_in_words(
    spoil: Callable[[Path], object], message: str, model: Path, tmp_path: Path
) -> None:
    spoil(model)
    with pytest.raises(ModelInvalid, match=message) as caught:
        base_digest(model, tmp_path / "c")
    assert str(model) in str(caught.value)


def test_a_model_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="no such model directory"):
        base_digest(tmp_path / "nowhere")


def test_shapes_of_linear_modules_come_from_the_headers(model: Path) -> None:
    shard(model / SHARDS[0], 0, ("model.a.weight", "model.norm.weight", "model.a.bias"))
    shapes = linear_shapes(model)
    assert shapes == {"lm_head": (5, 3), "model.a": (4, 3), "model.norm": (4, 3)}


def test_a_truncated_shard_is_named(model: Path) -> None:
    (model / SHARDS[0]).write_bytes((model / SHARDS[0]).read_bytes()[:-4])
    with pytest.raises(ModelInvalid, match=f"{SHARDS[0]}: truncated"):
        linear_shapes(model)


def test_the_tokenizer_is_handed_out_with_what_its_loader_needs(model: Path) -> None:
    files = tokenizer_files(model)
    assert files == {"config.json": b'{"model_type": "x"}', "tokenizer.json": b"{}"}
    assert tokenizer_digest(files) == tokenizer_digest(dict(reversed(files.items())))
    assert tokenizer_digest(files) != tokenizer_digest({**files, "a": b""})


def test_a_model_without_a_tokenizer_hands_out_nothing(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "generation_config.json").write_text("{}")
    assert tokenizer_files(model) == {}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def later() -> int:
    return 1 << 62


class Counter:
    """Counts how often content was really hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashed = 0
        self._real = hashlib.file_digest
        monkeypatch.setattr("sampler_core.digest_cache.hashlib.file_digest", self.digest)

    def digest(self, *args: object) -> object:
        self.hashed += 1
        return self._real(*args)  # type: ignore[arg-type]


def test_a_file_is_hashed_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    path = written(tmp_path / "w", b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    for _ in range(2):
        assert file_sha256(path, tmp_path / "c", later) == expected
    assert counter.hashed == 1
    written(path, b"two")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path, tmp_path / "c", later) == hashlib.sha256(b"two").hexdigest()
    assert counter.hashed == 2


def test_a_file_written_just_now_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    path = written(tmp_path / "w", b"one")
    for _ in range(2):
        file_sha256(path, tmp_path / "c", lambda: path.stat().st_mtime_ns + 1)
    assert counter.hashed == 2


def test_an_unwritable_or_broken_cache_only_costs_time(tmp_path: Path) -> None:
    path = written(tmp_path / "w", b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    (tmp_path / "file").write_text("")
    assert file_sha256(path, tmp_path / "file" / "c", later) == expected
    file_sha256(path, tmp_path / "c", later)
    (entry,) = (tmp_path / "c").iterdir()
    entry.write_text("no digest")
    assert file_sha256(path, tmp_path / "c", later) == expected


def test_a_file_that_keeps_changing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = iter(range(100))
    monkeypatch.setattr(digest_cache, "_stamp", lambda _: (next(stamps), 0, 0, 0))
    with pytest.raises(ModelInvalid, match="kept changing"):
        file_sha256(written(tmp_path / "w", b"one"))


def test_the_name_of_a_blob_of_the_hub_cache_is_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    digest = hashlib.sha256(b"one").hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / digest).write_bytes(b"one")
    (tmp_path / "blobs" / ("a" * 40)).write_bytes(b"two")
    for name, target in (("w", digest), ("small", "a" * 40)):
        (tmp_path / name).symlink_to(tmp_path / "blobs" / target)
    assert file_sha256(tmp_path / "w") == digest
    assert counter.hashed == 0
    assert file_sha256(tmp_path / "small") == hashlib.sha256(b"two").hexdigest()
    assert counter.hashed == 1


def test_digests_are_remembered_below_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_directory() == Path("/var/cache/me/sampler-operator/digests")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/nowhere/me")
    assert cache_directory() == Path("/nowhere/me/.cache/sampler-operator/digests")


def test_a_user_without_a_home_has_a_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr(tempfile, "tempdir", "/scratch")
    assert cache_directory() == Path("/scratch/sampler-operator/digests")
