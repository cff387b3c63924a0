"""Results: lazy columns that behave like the lists they stand for, and sequences that travel."""

import copy
import json
import pickle
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sampler_api.columns import Chunks, row_type
from sampler_api.errors import InvalidRequest
from sampler_api.logprobs import LogprobRow, LogprobRows
from sampler_api.results import Responses, SampledSequence, SampleResponse, Segment
from sampler_api.revisions import Revision

ONE = LogprobRows(np.array([3, 1, 2], np.int32), np.array([-0.5, -1.0, -0.25], np.float32))
TOP = LogprobRows(
    np.array([[3, 1], [1, -1], [2, 3]], np.int32),
    np.array([[-0.5, -1.0], [0.0, np.nan], [-0.25, -2.0]], np.float32),
)
ONE_LIST: list[LogprobRow] = [[(3, -0.5)], [(1, -1.0)], [(2, -0.25)]]
TOP_LIST: list[LogprobRow] = [[(3, -0.5), (1, -1.0)], [(1, 0.0)], [(2, -0.25), (3, -2.0)]]

both = pytest.mark.parametrize(
    ("rows", "plain"),
    [pytest.param(ONE, ONE_LIST, id="one candidate"), pytest.param(TOP, TOP_LIST, id="top 2")],
)


@both
def test_rows_read_like_their_list(rows: LogprobRows, plain: list[LogprobRow]) -> None:
    assert rows.tolist() == plain
    assert list(rows) == plain
    assert len(rows) == len(plain)
    assert [rows[i] for i in range(-3, 3)] == [plain[i] for i in range(-3, 3)]
    assert plain[1] in rows
    assert [(9, 0.0)] not in rows
    assert rows.index(plain[2]) == 2
    assert rows.count(plain[0]) == 1
    assert list(reversed(rows)) == plain[::-1]
    assert repr(rows) == repr(plain)
    assert isinstance(rows, Sequence)
    assert bool(rows)
    assert not rows[:0]
    for index in (3, -4):
        with pytest.raises(IndexError):
            rows[index]


@both
def test_rows_equal_their_list_and_nothing_else(rows: LogprobRows, plain: Any) -> None:
    assert rows == plain
    assert plain == rows
    assert rows == pickle.loads(pickle.dumps(rows))
    assert rows != plain[:2]
    assert rows != [*plain[:2], [(9, 0.0)]]
    assert rows != "rows"
    assert (rows == 3) is False


@both
def test_rows_add_to_lists_and_rows(rows: LogprobRows, plain: list[LogprobRow]) -> None:
    assert rows + plain == plain + plain
    assert plain + rows == plain + plain
    assert rows + rows == plain + plain
    assert type(rows + rows) is list


@both
def test_copies_are_equal_and_own_their_columns(rows: LogprobRows, plain: Any) -> None:
    for copied in (copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))):
        assert isinstance(copied, LogprobRows)
        assert copied == plain
        assert not np.shares_memory(copied.sampled, rows.sampled)


INDEX = st.none() | st.integers(-5, 5)


@settings(deadline=None)
@given(INDEX, INDEX, st.none() | st.sampled_from([-2, -1, 1, 2]), st.sampled_from([0, 1]))
def test_slices_are_the_slices_of_the_list(
    start: int | None, stop: int | None, step: int | None, which: int
) -> None:
    rows, plain = ((ONE, ONE_LIST), (TOP, TOP_LIST))[which]
    part = rows[start:stop:step]
    assert isinstance(part, LogprobRows)
    assert part == plain[start:stop:step]


def test_the_sampled_logprobs_are_an_array() -> None:
    for rows in (ONE, TOP):
        assert rows.sampled.dtype == np.float32
    assert ONE.sampled.tolist() == [-0.5, -1.0, -0.25]
    assert TOP.sampled.tolist() == [-0.5, 0.0, -0.25]


def test_numbers_of_a_row_are_pythons() -> None:
    for rows in (ONE, TOP):
        for row in (rows[0], rows.tolist()[0]):
            assert {(type(token), type(value)) for token, value in row} == {(int, float)}


def test_columns_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        LogprobRows(np.zeros(2, np.int32), np.zeros(3, np.float32))


class CountingView:
    """Counts what is made."""

    def __init__(self) -> None:
        self.decoded = 0
        self.features = 0

    def decode(self, tokens: list[int]) -> str | None:
        self.decoded += 1
        return "text"

    def feature(self, tokens: list[int]) -> dict[str, Any]:
        self.features += 1
        return {"input_ids": [0, *tokens]}

    def __reduce__(self) -> Any:
        raise AssertionError("a view does not travel")


IDS = np.array([3, 1, 2], np.int32)
REVISION = Revision("sha256:aa", "sha256:bb")
SEGMENTS = (Segment("pod-0", REVISION, 0, 3, "finished"),)


def test_text_and_feature_are_made_once_and_only_when_read() -> None:
    view = CountingView()
    sequence = SampledSequence("stop", IDS, ONE, view=view)
    assert sequence.tokens == [3, 1, 2]
    assert (view.decoded, view.features) == (0, 0)
    for _ in range(2):
        assert sequence.decoded == "text"
        assert sequence.new_input_feature == {"input_ids": [0, 3, 1, 2]}
    assert (view.decoded, view.features) == (1, 1)


def test_a_sequence_without_view_has_no_text() -> None:
    sequence = SampledSequence("length", [1, 2])
    assert sequence.decoded is None
    assert sequence.new_input_feature is None
    assert sequence.token_ids.dtype == np.int32
    assert sequence.token_ids.tolist() == sequence.tokens == [1, 2]
    assert SampledSequence("length").tokens == []


def test_what_is_given_is_kept() -> None:
    sequence = SampledSequence("stop", [1], None, "mine", {"input_ids": [1]}, view=CountingView())
    assert sequence.decoded == "mine"
    assert sequence.new_input_feature == {"input_ids": [1]}
    sequence.new_input_feature = {"changed": 1}
    assert sequence.new_input_feature == {"changed": 1}


@pytest.mark.parametrize(
    "copied",
    [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, copy.copy],
    ids=["pickled", "deep", "shallow"],
)
def test_a_copied_sequence_is_whole_and_needs_no_view(copied: Any) -> None:
    sequence = SampledSequence(
        "error",
        IDS,
        TOP,
        revision=REVISION,
        segments=SEGMENTS,
        stop_matched="</s>",
        error=InvalidRequest("no", "top_p"),
        view=CountingView(),
    )
    again = copied(sequence)
    assert again == sequence
    assert again.logprobs == TOP_LIST
    assert (again.decoded, again.new_input_feature) == ("text", {"input_ids": [0, 3, 1, 2]})
    assert (again.revision, again.segments, again.stop_matched) == (REVISION, SEGMENTS, "</s>")
    assert type(again.error) is InvalidRequest
    assert not np.shares_memory(again.token_ids, IDS)


def test_sequences_are_equal_by_what_was_sampled() -> None:
    made = SampledSequence("stop", IDS, ONE, revision=REVISION)
    assert made == SampledSequence("stop", [3, 1, 2], ONE_LIST, revision=REVISION)
    assert made != SampledSequence("length", IDS, ONE, revision=REVISION)
    assert made != SampledSequence("stop", IDS[:2], ONE[:2], revision=REVISION)
    assert made != SampledSequence("stop", IDS, None, revision=REVISION)
    assert made != SampledSequence("stop", IDS, ONE)
    assert made != "sequence"


def responses() -> Responses:
    return Responses(
        SampleResponse(sequences=[SampledSequence("stop", [i, k]) for k in range(2)])
        for i in range(2)
    )


def test_responses_are_a_list_with_a_flat_view() -> None:
    made = responses()
    assert isinstance(made, list)
    assert [s.tokens for s in made.sequences] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert [(i, k) for i, k, _ in made.iter_sequences()] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_responses_travel() -> None:
    again = pickle.loads(pickle.dumps(responses()))
    assert isinstance(again, Responses)
    assert again == responses()


def arrived(k: int, tokens: Sequence[int], seed: int = 0) -> SampledSequence:
    """A sequence whose columns came over the wire, in two pieces; its arrays are views of rows."""
    draw = np.random.default_rng(seed)
    rows = np.zeros(len(tokens), row_type(k))
    rows["token"] = tokens
    if k == 1:
        rows["logprob"] = -draw.random(len(tokens))
    elif k > 1:
        rows["top_ids"] = draw.integers(0, 100, (len(tokens), k))
        rows["top_logprobs"] = -draw.random((len(tokens), k))
    chunks = Chunks(k)
    for part in (rows[:2], rows[2:]):
        chunks.add(part.tobytes(), k)
    ids, logprobs = chunks.arrays()
    return SampledSequence("length", ids, logprobs)


TOKENS = [5, 0, 2**31 - 1, 7, 9]
each_k = pytest.mark.parametrize(
    "k", [pytest.param(0, id="no logprobs"), pytest.param(1, id="one"), pytest.param(3, id="top 3")]
)


def columns_of(sequence: SampledSequence) -> list[NDArray[Any]]:
    rows = sequence.logprobs
    assert rows is None or isinstance(rows, LogprobRows)
    return [sequence.token_ids, *([] if rows is None else [rows.ids, rows.values, rows.sampled])]


@each_k
def test_columns_that_arrived_lie_a_row_apart_and_read_as_their_contiguous_copies(k: int) -> None:
    sequence = arrived(k, TOKENS)
    assert sequence.token_ids.strides == (row_type(k).itemsize,)
    assert sequence.tokens == sequence.token_ids.tolist() == TOKENS
    for column in columns_of(sequence):
        plain = np.ascontiguousarray(column)
        assert column.flags.c_contiguous == (k == 0)
        assert plain.flags.c_contiguous
        assert column.copy().flags.c_contiguous
        assert column.dtype == plain.dtype
        assert np.array_equal(column, plain)
        assert np.array_equal(np.concatenate([column, column]), np.concatenate([plain, plain]))
        assert column[1:4].tolist() == plain[1:4].tolist()
        assert column.tobytes() == plain.tobytes()
        assert json.dumps(column.tolist()) == json.dumps(plain.tolist())
        assert msgspec.json.encode(column.tolist()) == msgspec.json.encode(plain.tolist())


@each_k
def test_columns_that_arrived_may_be_written_to_and_touch_nothing_else(k: int) -> None:
    sequence, other = arrived(k, TOKENS), arrived(k, TOKENS)
    for column in columns_of(sequence):
        assert column.flags.writeable
    kept = [column.copy() for column in columns_of(sequence)]
    sequence.token_ids += -3
    assert sequence.token_ids.tolist() == [token - 3 for token in TOKENS]
    if k > 1:
        # With one candidate the rows have the tokens themselves for ids.
        assert np.array_equal(columns_of(sequence)[1], kept[1])
    for column, before in zip(columns_of(sequence)[2:], kept[2:], strict=True):
        assert np.array_equal(column, before)
    assert columns_of(other)[0].tolist() == TOKENS


@each_k
def test_a_sequence_that_arrived_is_the_same_after_pickling_and_copying(k: int) -> None:
    sequence = arrived(k, TOKENS)
    for made in (pickle.loads(pickle.dumps(sequence)), copy.deepcopy(sequence)):
        assert made == sequence
        assert len(columns_of(made)) == len(columns_of(sequence))
        for column, before in zip(columns_of(made), columns_of(sequence), strict=True):
            assert np.array_equal(column, before)
            assert column.flags.writeable


@each_k
def test_a_view_in_another_type_needs_the_contiguous_copy(k: int) -> None:
    ids: Any = arrived(k, TOKENS).token_ids
    if k:
        with pytest.raises(TypeError, match="contiguous"):
            ids.data.cast("B")
    for plain in (ids.copy(), np.ascontiguousarray(ids)):
        assert plain.data.cast("B") == ids.tobytes()
