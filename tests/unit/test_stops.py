"""Stop strings end a sequence at the same token as the plain definition, over real tokenisers.

The definition decodes every prefix from its start; the matcher must agree with it for every way to
cut the tokens into an earlier part and feeds.
"""

from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sampler_core.stops import StopMatch, StopMatcher

Decode = Callable[[Sequence[int]], str]

CORPUS = ["the end of the world 。。世界の終わり 👩‍👩‍👧 été stop STOP </answer> \n\n aaa abab"] * 3
UNFINISHED = "\ufffd"


@cache
def byte_level() -> Decode:
    """Byte-level BPE, trained without a pre-tokeniser's cuts: tokens cross characters and words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return lambda ids: str(core.decode(list(ids), skip_special_tokens=False))


PIECES = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "a", "b", "ab", "▁st", "op", "é"]


@cache
def byte_fallback() -> Decode:
    """Sentencepiece's way: ▁ for a space, the first space of a text dropped, bytes as pieces."""
    from tokenizers import Tokenizer, decoders, models

    core = Tokenizer(models.BPE({p: i for i, p in enumerate(PIECES)}, [], byte_fallback=True))
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return lambda ids: str(core.decode(list(ids), skip_special_tokens=False))


@cache
def word_piece() -> Decode:
    """Words joined with spaces, ``##`` pieces without."""
    from tokenizers import Tokenizer, decoders, models

    words = ["[UNK]", "a", "b", "##a", "##b", "stop", "##stop", "é"]
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece(cleanup=False)
    return lambda ids: str(core.decode(list(ids), skip_special_tokens=False))


def settled(decode: Decode, ids: Sequence[int]) -> str:
    """The text of tokens, without a character that is not complete."""
    return decode(ids).rstrip(UNFINISHED) if ids else ""


def by_definition(
    decode: Decode, stops: Sequence[str], ids: Sequence[int], earlier: int, min_tokens: int
) -> tuple[int, str] | None:
    """(tokens to keep, stop string), from the words of the module's docstring."""
    first = max(min_tokens, earlier)
    floor = max(len(settled(decode, ids[:u])) for u in range(min(first, len(ids)) + 1))
    for t in range(first + 1, len(ids) + 1):
        text = settled(decode, ids[:t])
        found = [
            (at, order)
            for order, stop in enumerate(stops)
            if (at := text.find(stop, max(0, floor - len(stop) + 1))) >= 0
        ]
        if found:
            return t, stops[min(found)[1]]
    return None


def by_matcher(
    decode: Decode,
    stops: Sequence[str],
    ids: Sequence[int],
    earlier: int,
    min_tokens: int,
    sizes: Sequence[int],
) -> tuple[int, str] | None:
    """The same through feeds of the given sizes, over and over."""
    matcher = StopMatcher(stops, decode, ids[:earlier], min_tokens)
    at, turn = earlier, 0
    while at < len(ids):
        size = sizes[turn % len(sizes)]
        match = matcher.feed(ids[at : at + size])
        if match:
            assert 1 <= match.keep <= size
            return at + match.keep, match.text
        at, turn = at + size, turn + 1
    return None


def agree(
    decode: Decode,
    stops: Sequence[str],
    ids: Sequence[int],
    min_tokens: int = 0,
    sizes: Sequence[int] = (1,),
    cuts: Sequence[int] | None = None,
) -> None:
    """Definition and matcher say the same, cut at every position."""
    for earlier in cuts if cuts is not None else range(len(ids) + 1):
        expected = by_definition(decode, stops, ids, earlier, min_tokens)
        assert by_matcher(decode, stops, ids, earlier, min_tokens, sizes) == expected, earlier


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=3)
STOPS = st.lists(
    st.sampled_from(
        ["a", "aa", "aba", "stop", " stop", "é", "世界", "👩‍👩‍👧", "b a", " ", "\n\n", "a é"]
    )
    | st.text(st.sampled_from("ab é世\n"), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)


def joined(parts: Sequence[Sequence[int]]) -> list[int]:
    """One list of many."""
    return [item for part in parts for item in part]


def mixed(low: int, vocabulary: int, pieces: Sequence[bytes]) -> st.SearchStrategy[list[int]]:
    """Tokens at random, with runs of bytes (ids from ``low``) that are real characters."""
    runs = st.sampled_from(pieces).map(lambda raw: [low + byte for byte in raw])
    some = st.integers(0, vocabulary - 1).map(lambda i: [i])
    return st.lists(runs | some, max_size=16).map(joined)


CHARACTERS = [c.encode() for c in ("a", "b", " ", "é", "世", "界", "👩", "s", "stop", "\n")]


def byte_ids(raw: bytes) -> list[int]:
    """Single-byte tokens of the byte-level vocabulary."""
    return [_byte_level_ids()[byte] for byte in raw]


@cache
def _byte_level_ids() -> dict[int, int]:
    """Byte to token id, found by decoding: two ids around show what a lone byte is."""
    from tokenizers import pre_tokenizers

    # The alphabet's order is the code points'; ids follow it after the special token.
    ordered = sorted(pre_tokenizers.ByteLevel.alphabet())
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    to_char = {byte: chr(byte) for byte in kept} | {b: chr(256 + i) for i, b in enumerate(others)}
    return {byte: 1 + ordered.index(char) for byte, char in to_char.items()}


BYTE_LEVEL_IDS = st.lists(
    st.sampled_from(CHARACTERS).map(byte_ids) | st.integers(0, 339).map(lambda i: [i]), max_size=16
).map(joined)


def test_the_test_knows_the_byte_tokens() -> None:
    text = "stop 世界 é\n"
    assert byte_level()(byte_ids(text.encode())) == text


@settings(max_examples=150, deadline=None)
@given(STOPS, BYTE_LEVEL_IDS, st.integers(0, 12), SIZES)
@example(["é"], [], 0, [1])
@pytest.mark.timeout(60)
def test_byte_level_tokens_match_as_defined(
    stops: list[str], ids: list[int], min_tokens: int, sizes: list[int]
) -> None:
    agree(byte_level(), stops, ids, min_tokens, sizes)


@settings(max_examples=150, deadline=None)
@given(STOPS, mixed(0, len(PIECES), CHARACTERS), st.integers(0, 12), SIZES)
@pytest.mark.timeout(60)
def test_byte_fallback_with_a_dropped_space_matches_as_defined(
    stops: list[str], ids: list[int], min_tokens: int, sizes: list[int]
) -> None:
    agree(byte_fallback(), stops, ids, min_tokens, sizes)


@settings(max_examples=60, deadline=None)
@given(STOPS, st.lists(st.integers(0, 7), max_size=60), st.integers(0, 12), SIZES)
@pytest.mark.timeout(60)
def test_words_joined_by_the_decoder_match_as_defined(
    stops: list[str], ids: list[int], min_tokens: int, sizes: list[int]
) -> None:
    agree(word_piece(), stops, ids, min_tokens, sizes)


@pytest.mark.parametrize("text", ["世界の終わり", "👩‍👩‍👧", "é" * 20])
def test_a_stop_string_of_split_characters_matches_with_its_last_byte(text: str) -> None:
    ids = byte_ids(b"x" * 70 + text.encode() + b"yy")
    matcher = StopMatcher([text], byte_level())
    match = matcher.feed(ids)
    assert match == StopMatch(len(ids) - 2, text)


def test_a_stop_string_may_begin_before_the_cut() -> None:
    ids = byte_ids(b"see </answer> and more")
    agree(byte_level(), ["</answer>"], ids)
    matcher = StopMatcher(["</answer>"], byte_level(), ids[:9])
    assert matcher.feed(ids[9:]) == StopMatch(4, "</answer>")


def test_what_was_complete_within_min_tokens_does_not_count_and_what_ends_later_does() -> None:
    ids = byte_ids(b"stopstop")
    for min_tokens, expected in ((0, 4), (3, 4), (4, 8), (7, 8), (8, None)):
        match = StopMatcher(["stop"], byte_level(), (), min_tokens).feed(ids)
        assert (match and match.keep) == expected


def test_the_earliest_token_wins_then_the_earliest_start_then_the_order() -> None:
    ids = byte_ids(b"abcd")
    assert StopMatcher(["cd", "bc"], byte_level()).feed(ids) == StopMatch(3, "bc")
    assert StopMatcher(["d", "bcd", "cd"], byte_level()).feed(ids) == StopMatch(4, "bcd")
    assert StopMatcher(["b", "bc"], byte_level()).feed(ids[:1]) is None
    doubled = StopMatcher(["cd", "c", "cd"], lambda ids: "abcd" if ids else "")
    assert doubled.feed([0]) == StopMatch(1, "cd")


def test_an_unfinished_character_is_no_text() -> None:
    ids = byte_ids("a世".encode())
    assert StopMatcher([UNFINISHED], byte_level()).feed(ids[:3]) is None


def test_long_texts_of_split_characters_match_as_defined() -> None:
    ids = byte_ids(("世界é" * 80 + "stop").encode())
    agree(byte_level(), ["stop", "界é世é"], ids, sizes=[7], cuts=[0, 1, 100, 301, len(ids) - 2])
    ids = list(("世界é" * 80 + "stop").encode())
    agree(byte_fallback(), ["stop"], ids, sizes=[7], cuts=[0, 1, 100, 301, len(ids) - 2])


def test_bytes_that_are_no_text_hide_no_stop_string_after_them() -> None:
    for count in (3, 40, 300, 700):
        ids = byte_ids(b"\x80" * count + b"stop")
        match = StopMatcher(["stop"], byte_level()).feed(ids)
        assert match == StopMatch(count + 4, "stop")


class CountingDecode:
    """Counts the tokens that are decoded."""

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self.tokens = 0

    def __call__(self, ids: Sequence[int]) -> str:
        self.tokens += len(ids)
        return self.decode(ids)


@pytest.mark.parametrize("text", ["some plain text ", "世界", "é👩"], ids=["ascii", "cjk", "emoji"])
@pytest.mark.parametrize("size", [1, 16, 4000], ids=["token by token", "16 at once", "all at once"])
def test_the_work_is_linear_in_the_tokens(text: str, size: int) -> None:
    raw = text.encode()
    ids = byte_ids(raw * (4000 // len(raw)))
    for decoder, tokens in ((byte_level(), ids), (byte_fallback(), list(raw) * (4000 // len(raw)))):
        decode = CountingDecode(decoder)
        matcher = StopMatcher(["</answer>", "\n\nUser:"], decode)
        for start in range(0, len(tokens), size):
            assert matcher.feed(tokens[start : start + size]) is None
        assert decode.tokens <= 40 * len(tokens)


def test_a_long_earlier_part_is_not_decoded_whole() -> None:
    decode = CountingDecode(byte_level())
    StopMatcher(["</answer>"], decode, byte_ids(b"some text " * 3000))
    assert decode.tokens < 1000


def test_without_stop_strings_nothing_is_decoded() -> None:
    def refuse(ids: Sequence[int]) -> str:
        raise AssertionError("decoded")

    matcher = StopMatcher([], refuse, [1, 2, 3])
    assert matcher.feed([1, 2, 3]) is None
