"""Our reader of safetensors files agrees with the format's own library and refuses what is torn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampler_core.safetensors_file import (
    SafetensorsError,
    Tensor,
    encode_safetensors,
    parse_safetensors,
    read_header,
)


def tensor(name: str, array: np.ndarray, dtype: str = "F32") -> Tensor:
    return Tensor(name, dtype, array.shape, memoryview(array.tobytes()))


def file(header: Any, data: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


WELL_FORMED = encode_safetensors(
    {
        "b": tensor("b", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "a": tensor("a", np.zeros((0, 4), np.float16), "F16"),
    }
)


def test_what_is_written_is_read_back_sorted_by_name() -> None:
    tensors = parse_safetensors(WELL_FORMED, "x")
    assert [(t.name, t.dtype, t.shape) for t in tensors.values()] == [
        ("a", "F16", (0, 4)),
        ("b", "F32", (2, 3)),
    ]
    assert np.frombuffer(tensors["b"].data, np.float32).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_header_of_a_file_gives_shapes_and_places_without_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WELL_FORMED)
    info = read_header(path)["b"]
    assert (info.dtype, info.shape) == ("F32", (2, 3))
    assert WELL_FORMED[info.start : info.end] == np.arange(6, dtype=np.float32).tobytes()


@pytest.mark.parametrize("cut", [0, 5, 8, 40, len(WELL_FORMED) - 1])
def test_a_truncated_file_is_refused_wherever_it_is_cut(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WELL_FORMED[:cut])
    with pytest.raises(SafetensorsError, match="truncated"):
        parse_safetensors(WELL_FORMED[:cut], "x.safetensors")
    with pytest.raises(SafetensorsError, match=r"x\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\x80\x02}q\x00." * 9, "no safetensors file", id="a pickle"),
        pytest.param(file(b"{"), "no JSON", id="a header that is no JSON"),
        pytest.param(file(b"\xff\xff"), "no JSON", id="a header that is no text"),
        pytest.param(file(b"[" * 100_000), "no JSON", id="a header nested too deep"),
        pytest.param(file([1]), "not a JSON object", id="a header that is a list"),
        pytest.param(file(b'{"a":{},"a":{}}'), "'a' is there twice", id="one name twice"),
        pytest.param(file({"a": {"dtype": "F32"}}), "'a' needs exactly", id="a missing key"),
        pytest.param(file({"a": entry("F31")}), "unknown dtype 'F31'", id="an unknown dtype"),
        pytest.param(file({"a": entry(["F32"])}), "unknown dtype", id="a dtype that is a list"),
        pytest.param(file({"a": entry(shape=[-1])}), "impossible shape", id="a negative shape"),
        pytest.param(file({"a": entry(shape=[True])}), "impossible shape", id="a boolean shape"),
        pytest.param(file({"a": entry(offsets=[0])}), "impossible offsets", id="one offset"),
        pytest.param(
            file({"a": entry(shape=[2])}, b"\0" * 4), "needs 8 bytes", id="a shape that is too big"
        ),
        pytest.param(file({"a": entry(offsets=[4, 0])}), "needs 4 bytes", id="offsets backwards"),
        pytest.param(
            file({"a": entry(), "b": entry()}, b"\0" * 8), "'b' overlaps", id="overlapping tensors"
        ),
        pytest.param(file({"a": entry(offsets=[4, 8])}, b"\0" * 8), "'a' leaves a gap", id="a gap"),
        pytest.param(file({"a": entry()}, b"\0" * 9), "5 bytes behind", id="bytes behind"),
        pytest.param(
            file({"__metadata__": 3}),
            "__metadata__ is not an object",
            id="metadata of a wrong kind",
        ),
    ],
)
def test_a_malformed_file_is_refused_and_named(data: bytes, message: str) -> None:
    with pytest.raises(SafetensorsError, match=message) as caught:
        parse_safetensors(data, "dir/adapter_model.safetensors")
    assert str(caught.value).startswith("dir/adapter_model.safetensors: ")


def test_files_of_the_formats_own_library_are_read_and_ours_are_read_by_it() -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "x": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
        "y": np.arange(4, dtype=np.int64),
        "z": np.array(2.5, np.float16),
    }
    ours = parse_safetensors(library.save(arrays), "x")
    assert {name: t.shape for name, t in ours.items()} == {n: a.shape for n, a in arrays.items()}
    assert all(bytes(ours[name].data) == array.tobytes() for name, array in arrays.items())
    again = library.load(encode_safetensors(ours))
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())
