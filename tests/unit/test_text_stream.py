"""Text as it grows: whole characters, no stop string, nothing lost."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler_server.routes.text_stream import TextStream

END = 256


def decode(ids: Sequence[int]) -> str:
    return bytes(i for i in ids if i < END).decode("utf-8", "replace")


def pieces(data: bytes, size: int, **arguments: object) -> list[str]:
    stream = TextStream(decode, **arguments)  # type: ignore[arg-type]
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return [stream.feed(list(part)) for part in parts] + [stream.end()]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_character_comes_whole(size: int) -> None:
    text = "aé漢🙂z" * 20
    got = pieces(text.encode(), size)
    assert "".join(got) == text
    assert not any("�" in piece for piece in got)


def test_an_unfinished_character_comes_at_the_end_as_what_it_is() -> None:
    assert pieces("a🙂".encode()[:-1], 1) == ["a", "", "", "", "�"]


@given(st.binary(max_size=300), st.integers(1, 40))
def test_the_pieces_joined_are_the_text(data: bytes, size: int) -> None:
    assert "".join(pieces(data, size)) == decode(data)


@given(st.text("ab\n", max_size=60), st.integers(1, 9), st.text("ab\n", min_size=1, max_size=4))
def test_a_stop_string_that_did_not_count_is_kept(text: str, size: int, stop: str) -> None:
    assert "".join(pieces(text.encode(), size, stops=[stop])) == text


@given(st.text("ab", max_size=40), st.sampled_from(["aa", "ab", "bab", "b"]), st.integers(1, 6))
def test_the_stop_string_is_never_shown(before: str, stop: str, size: int) -> None:
    text = before + stop
    text = text[: text.find(stop) + len(stop)]
    ids = list(text.encode())
    last = (len(ids) - 1) // size * size
    stream = TextStream(decode, stops=[stop])
    shown = [stream.feed(ids[i : i + size]) for i in range(0, last, size)]
    assert "".join(shown) + stream.end(ids[last:], stop) == text.removesuffix(stop)


def test_a_token_that_completes_a_stop_string_twice_is_cut_at_the_first() -> None:
    words = {0: "a", 1: "\n\n", 2: "aa"}
    stream = TextStream(lambda ids: "".join(words[i] for i in ids), stops=["\n", "aa"])
    assert stream.end([0, 1], "\n") == "a"
    stream = TextStream(lambda ids: "".join(words[i] for i in ids), stops=["aa"])
    assert stream.end([0, 2], "aa") == ""


def test_a_stop_string_before_min_tokens_stays_when_a_later_one_ends_the_sequence() -> None:
    stream = TextStream(decode, stops=["x"])
    assert stream.feed(list(b"axb")) + stream.end(list(b"cx"), "x") == "axbc"


def test_hidden_ids_have_no_text() -> None:
    stream = TextStream(lambda ids: "".join("?" if i == END else chr(i) for i in ids), {END})
    assert stream.feed([97, END, 98]) + stream.end([END]) == "ab"


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(decode, stops=["<end>"])
    assert stream.feed(list(b"a <en")) == "a "
    assert stream.feed(list(b"t")) == "<ent"
