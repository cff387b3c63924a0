"""Where a sequence ends: stop strings on text, exact for any tokenisation; EOS, ids and lengths.

What a match is. Let text(t) be the decoding of the first t generated tokens without trailing U+FFFD
(a character whose last bytes have not come is no text yet), and b the larger of ``min_tokens`` and
the number of ``output_ids``. The sequence ends at the first t > b where text(t) contains a stop
string that ends beyond every text(u), u <= b: an occurrence that was complete after b tokens counts
no more, one that only began there does. Among several at one t the earliest start in the text wins,
then the order of the list.

How it is found. Tokens are decoded in a window that slides: its text is cut into a settled part, of
which only the last characters that a stop string may reach back to are kept, and the rest. So the
cost is linear in the tokens. A window may move its start only where the decoding of the shorter
window is the end of the decoding of the longer one; that holds for byte-level BPE with characters
split over tokens, byte fallback, and decoders that drop a space at the start of a text.

Where it may differ: byte fallback shows a whole run of byte pieces as U+FFFD when one of them is
invalid. In a run of more than a window that began with an invalid byte the matcher may see the
characters that follow it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["StopMatch", "StopMatcher"]

_UNFINISHED: Final = "�"
_CONTEXT: Final = 8
"""Tokens that stay in a window when it slides."""
_WINDOW: Final = 32
"""Tokens of a window before it slides, and of a chunk that is decoded at once."""
_CHARACTER_TOKENS: Final = 4
"""A UTF-8 character has at most four bytes, so it ends at most three tokens after its first."""
_LARGEST_WINDOW: Final = 256


@dataclass(frozen=True, slots=True)
class StopMatch:
    """``keep`` tokens of the feed remain, the last one completes the stop string ``text``."""

    keep: int
    text: str


class StopMatcher:
    """Watches one sequence for stop strings.

    ``decode`` maps token ids to text, special tokens kept; ``output_ids`` were generated before the
    first feed: a stop string may begin in them. Without ``stops`` a feed costs nothing.
    """

    __slots__ = ("_count", "_decode", "_done", "_ignored", "_reach", "_stops", "_tail", "_window")

    def __init__(
        self,
        stops: Sequence[str],
        decode: Callable[[Sequence[int]], str],
        output_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        self._stops = tuple(stops)
        self._decode = decode
        self._reach = max(map(len, stops), default=0) - 1
        self._tail = ""
        """The last ``_reach`` characters of the settled text."""
        self._window: list[int] = []
        self._done = 0
        """Characters of the window's text that are settled."""
        self._count = len(output_ids)
        self._ignored = max(min_tokens, self._count)
        if self._stops:
            self._start(list(output_ids))

    def feed(self, tokens: Sequence[int]) -> StopMatch | None:
        """Take new tokens; a match says how many of them to keep. Feed no more after a match."""
        if not self._stops:
            return None
        tokens = list(tokens)
        for start in range(0, len(tokens), _WINDOW):
            match = self._chunk(tokens[start : start + _WINDOW])
            if match:
                return StopMatch(start + match.keep, match.text)
        return None

    def _chunk(self, tokens: list[int]) -> StopMatch | None:
        # What decodes without U+FFFD only grew on the way, so a look at its end sees all of it.
        if len(tokens) > 1:
            crosses = self._count < self._ignored < self._count + len(tokens)
            text = self._decode(self._window + tokens)
            fresh = self._tail + text[self._done :]
            is_plain = _UNFINISHED not in fresh and not any(s in fresh for s in self._stops)
            if is_plain and not crosses:
                self._take(tokens, text)
                return None
        for position, token in enumerate(tokens):
            text = self._decode([*self._window, token])
            found = self._search(text) if self._count >= self._ignored else None
            if found is not None:
                return StopMatch(position + 1, found)
            self._take([token], text)
        return None

    def _search(self, text: str) -> str | None:
        """The stop string that the window's ``text`` completes beyond the settled part."""
        settled = len(self._tail)
        hay = self._tail + text[self._done :].rstrip(_UNFINISHED)
        found: tuple[int, str] | None = None
        for stop in self._stops:
            at = hay.find(stop, max(0, settled - len(stop) + 1))
            if at >= 0 and (found is None or at < found[0]):
                found = at, stop
        return found and found[1]

    def _take(self, tokens: list[int], text: str) -> None:
        """Settle the window with new ``tokens``, which decodes to ``text``."""
        self._window += tokens
        self._count += len(tokens)
        self._settle(text, len(text.rstrip(_UNFINISHED)))
        if len(self._window) > _WINDOW:
            self._slide(text)

    def _settle(self, text: str, stable: int) -> None:
        if stable > self._done:
            tail = self._tail + text[self._done : stable]
            self._tail = tail[len(tail) - self._reach :] if len(tail) > self._reach else tail
            self._done = stable

    def _slide(self, text: str) -> None:
        """Shorten the window, whose text is ``text``, where that changes nothing to come."""
        unsettled = len(text) - self._done
        for length in range(_CONTEXT, _CONTEXT + _CHARACTER_TOKENS):
            window = self._window[-length:]
            shorter = self._decode(window)
            # The cut may have split a character; its remains lie before everything that matters.
            clean = shorter.lstrip(_UNFINISHED)
            if len(clean) > unsettled and text.endswith(clean):
                self._window = window
                self._done = len(shorter) - unsettled
                return
        if len(self._window) > _LARGEST_WINDOW:
            # Nothing but bytes that are no text for so long; no stop string reaches across them.
            self._settle(text, len(text))
            self._window = self._window[-_CONTEXT:]
            self._done = len(self._decode(self._window).rstrip(_UNFINISHED))

    def _start(self, output_ids: list[int]) -> None:
        """Window and tail as if ``output_ids`` had been fed, from their end alone if possible."""
        # A character that is complete here may be hidden by the bytes of the next one.
        for held in range(min(_CHARACTER_TOKENS, len(output_ids) + 1)):
            head = output_ids[: len(output_ids) - held]
            size = 4 * self._reach + 2 * _WINDOW
            while True:
                window = head[-size:]
                text = self._decode(window) if window else ""
                clean = text.strip(_UNFINISHED)
                # One more than is needed: a decoder may drop the space at a start.
                if size >= len(head) or len(clean) > self._reach + 1:
                    break
                size *= 2
            if not text.endswith(_UNFINISHED):
                break
        self._window = window
        self._done = 0
        self._tail = ""
        self._settle(text, len(text.rstrip(_UNFINISHED)))
        if len(window) > _WINDOW:
            self._slide(text)
        for token in output_ids[len(head) :]:
            count = self._count
            self._take([token], self._decode([*self._window, token]))
            self._count = count
