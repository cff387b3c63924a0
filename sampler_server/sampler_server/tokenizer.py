"""The served model's tokenizer: its files for clients, and the text functions of the server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ServedTokenizer"]


@dataclass(frozen=True, slots=True)
class ServedTokenizer:
    """``decode`` keeps special tokens and changes no spaces; ``encode`` adds no special tokens."""

    digest: str
    files: Mapping[str, bytes]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], list[int]]
