"""What each of several vLLM engines on one GPU may take of its memory. Pure."""

import re
from collections.abc import Sequence
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from itertools import zip_longest
from typing import Final

__all__ = ["memory_share"]

_OPTION: Final = re.compile(r"--gpu[-_]memory[-_]utilization(?:=(?P<value>.*))?")
_ALL: Final = "0.9"
_STEP: Final = Decimal("0.0001")


def memory_share(words: Sequence[str], engines: int) -> list[str]:
    """The option of one engine, from the words that ask for all of them together.

    To vLLM the share is its own, whoever else is on the GPU. A value that is no number is left to
    vLLM, which refuses it.
    """
    asked = _ALL
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        found = _OPTION.fullmatch(word)
        if found is not None:
            asked = following if found["value"] is None else found["value"]
    try:
        # Together they must not take more.
        share = (Decimal(asked) / engines).quantize(_STEP, ROUND_DOWN)
    except InvalidOperation:
        return []
    return ["--gpu-memory-utilization", f"{share.normalize():f}"]
