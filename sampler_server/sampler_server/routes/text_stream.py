"""Text of a sequence as it grows: no piece splits a character, none shows a stop string. Pure."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

__all__ = ["TextStream"]

_UNFINISHED: Final = "�"
_CONTEXT: Final = 8
_WINDOW: Final = 32


class TextStream:
    """Feeds of token ids to pieces of text, which joined are the text of all ids.

    ``decode`` keeps special tokens, so ``hidden`` ids (special tokens) are left out before. A
    character whose last bytes have not come is held back, and so is what may become a stop string.
    """

    __slots__ = ("_decode", "_done", "_held", "_hidden", "_stops", "_window", "length")

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        hidden: Collection[int] = (),
        stops: Sequence[str] = (),
    ) -> None:
        self._decode = decode
        self._hidden = hidden
        self._stops = stops
        self._window: list[int] = []
        self._done = 0
        """Characters of the window's text that have been settled."""
        self._held = ""
        """Settled text that may yet be the beginning of a stop string."""
        self.length = 0
        """Characters given out."""

    def feed(self, ids: Sequence[int]) -> str:
        """The text that is certain now."""
        # A long feed in parts: the window stays short, and decoding linear.
        settled = "".join(
            self._settle(ids[start : start + _WINDOW], is_last=False)
            for start in range(0, len(ids), _WINDOW)
        )
        return self._give(self._held + settled, self._reach(self._held + settled))

    def end(self, ids: Sequence[int] = (), matched: str | None = None) -> str:
        """Feed the last ids and give all the rest, without the stop string that the last id
        completed.
        """
        if matched is None:
            given = self.feed(ids)
            return given + self._give(self._held + self._settle([], is_last=True), 0)
        given = self.feed(ids[:-1])
        earlier = len(self._held)
        text = self._held + self._settle(ids[-1:], is_last=True)
        # An occurrence that was complete before did not count (``min_tokens``): look behind it.
        start = text.find(matched, max(0, earlier - len(matched) + 1))
        return given + self._give(text if start < 0 else text[:start], 0)

    def _give(self, text: str, held: int) -> str:
        cut = len(text) - held
        self._held = text[cut:]
        self.length += cut
        return text[:cut]

    def _settle(self, ids: Sequence[int], is_last: bool) -> str:
        window = self._window
        window += [i for i in ids if i not in self._hidden]
        text = self._decode(window) if window else ""
        end = len(text) if is_last else len(text.rstrip(_UNFINISHED))
        new = text[self._done : end]
        self._done = max(self._done, end)
        if len(window) > _WINDOW and end == len(text):
            self._slide(text)
        return new

    def _slide(self, text: str) -> None:
        """Forget ids whose text is settled, where that changes nothing of what follows."""
        tail = self._window[-_CONTEXT:]
        short = self._decode(tail)
        if text.endswith(short) and not short.startswith(_UNFINISHED):
            self._window = tail
            self._done = len(short)

    def _reach(self, text: str) -> int:
        """How many characters at the end may begin (or be) a stop string."""
        longest = 0
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0:
                # The match itself: its sequence ends, and ``end`` cuts it off.
                longest = max(longest, len(text) - at)
                continue
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
