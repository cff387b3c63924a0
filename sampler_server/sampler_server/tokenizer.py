"""The served model's tokenizer: its files for clients, and the text functions of the server."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampler_api.errors import ModelInvalid
from sampler_core.bases import tokenizer_digest

__all__ = ["ServedTokenizer", "served_tokenizer"]


@dataclass(frozen=True, slots=True)
class ServedTokenizer:
    """``decode`` keeps special tokens and changes no spaces; ``encode`` adds no special tokens."""

    digest: str
    files: Mapping[str, bytes]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], list[int]]


def served_tokenizer(files: Mapping[str, bytes]) -> ServedTokenizer | None:
    """The tokenizer of such files; ``None`` when there are none. Blocks. Raises ModelInvalid."""
    if not files:
        return None
    try:
        fast = files.get("tokenizer.json")
        decode, encode = _of_json(fast) if fast is not None else _of_files(files)
    except Exception as error:
        # The libraries raise bare Exceptions for files that they cannot read.
        raise ModelInvalid(f"tokenizer: {error}", "tokenizer") from error
    return ServedTokenizer(tokenizer_digest(files), files, decode, encode)


_Texts = tuple[Callable[[Sequence[int]], str], Callable[[str], list[int]]]


def _of_json(data: bytes) -> _Texts:
    # Without transformers, whose import takes longer than the rest of a start.
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_str(data.decode())

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return decode, encode


def _of_files(files: Mapping[str, bytes]) -> _Texts:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as directory:
        for name, data in files.items():
            path = Path(directory) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)

    def decode(ids: Sequence[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return decode, encode
