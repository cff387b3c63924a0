"""The served model's tokenizer: its files for clients, and the text functions of the server."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import ModelInvalid
from sampler_api.names import SHA256_PREFIX

__all__ = ["ServedTokenizer", "read_tokenizer_files", "served_tokenizer", "tokenizer_digest"]

_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    # Names the tokenizer's class where tokenizer_config.json does not.
    "config.json",
)
_ESSENTIAL: Final = frozenset(
    {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"}
)


@dataclass(frozen=True, slots=True)
class ServedTokenizer:
    """``decode`` keeps special tokens and changes no spaces; ``encode`` adds no special tokens."""

    digest: str
    files: Mapping[str, bytes]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], list[int]]


def read_tokenizer_files(directory: Path) -> dict[str, bytes]:
    """The tokenizer's files of a model directory; empty when it has none."""
    files = {n: (directory / n).read_bytes() for n in _FILES if (directory / n).is_file()}
    return files if _ESSENTIAL & files.keys() else {}


def tokenizer_digest(files: Mapping[str, bytes]) -> str:
    """sha256 over names and contents, in the order of the names."""
    total = hashlib.sha256()
    for name, data in sorted(files.items()):
        total.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\0".encode())
    return SHA256_PREFIX + total.hexdigest()


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
            (Path(directory) / name).write_bytes(data)
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)

    def decode(ids: Sequence[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return decode, encode
