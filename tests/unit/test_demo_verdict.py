"""The demo's judgement, on runs with one thing wrong."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from demo.verdict import Expectation, Sample, has_continued, judge

from sampler_api.errors import EngineFailed
from sampler_api.logprobs import LogprobRows
from sampler_api.results import SampledSequence, Segment
from sampler_api.revisions import Revision

BASE = Revision("sha256:base")
ADAPTED = Revision("sha256:base", "sha256:adapter")
KILLED, LEFT = "127.0.0.1:1", "127.0.0.1:2"
EXPECTED = Expectation(
    revisions={0: BASE, 1: ADAPTED},
    children=2,
    replicas=frozenset({KILLED, LEFT}),
    killed=KILLED,
    max_tokens=4,
)


def sequence(revision: Revision, tokens: int = 4, cut: int = 0) -> SampledSequence:
    """``tokens`` tokens; the first ``cut`` of them are the killed replica's."""
    ids = np.arange(tokens, dtype=np.int32)
    lost = (Segment(KILLED, revision, 0, cut, "lost"),) if cut else ()
    return SampledSequence(
        "length" if tokens == EXPECTED.max_tokens else "stop",
        ids,
        LogprobRows(ids, -np.ones(tokens, np.float32)),
        revision=revision,
        segments=(*lost, Segment(LEFT, revision, cut, tokens, "finished")),
    )


def good_run() -> list[Sample]:
    return [
        Sample(0, 0, sequence(BASE)),
        Sample(0, 1, sequence(BASE, tokens=2)),
        Sample(1, 0, sequence(ADAPTED, cut=3)),
        Sample(1, 1, sequence(ADAPTED)),
    ]


def test_a_run_that_kept_the_promise_has_no_problems() -> None:
    verdict = judge(good_run(), EXPECTED)
    assert verdict.problems == []
    assert (verdict.sequences, verdict.lost, verdict.duplicated, verdict.continued) == (4, 0, 0, 1)


def test_a_missing_sequence_is_lost() -> None:
    verdict = judge(good_run()[1:], EXPECTED)
    assert verdict.lost == 1
    assert verdict.problems == ["lost: [(0, 0)]"]


def test_a_second_sequence_of_one_id_is_a_duplicate() -> None:
    run = good_run()
    verdict = judge([*run, run[3]], EXPECTED)
    assert (verdict.lost, verdict.duplicated) == (0, 1)
    assert verdict.problems == ["duplicated: [(1, 1)]"]


def test_a_sequence_that_nobody_asked_for_is_a_problem() -> None:
    verdict = judge([*good_run(), Sample(7, 0, sequence(BASE))], EXPECTED)
    assert verdict.problems == ["input 7, sample 0: was not asked for"]


def test_a_run_without_a_continued_sequence_proves_nothing() -> None:
    run = good_run()
    run[2] = Sample(1, 0, sequence(ADAPTED))
    assert judge(run, EXPECTED).problems == ["no sequence was continued: the kill met none halfway"]


def test_ending_on_the_killed_replica_is_not_continuing() -> None:
    finished_there = SampledSequence(
        "stop", [0], segments=(Segment(KILLED, BASE, 0, 1, "finished"),), revision=BASE
    )
    assert not has_continued(finished_there, KILLED)


def test_going_on_in_the_process_that_replaced_the_killed_one_is_continuing() -> None:
    segments = (Segment(KILLED, BASE, 0, 1, "lost"), Segment(KILLED, BASE, 1, 2, "finished"))
    assert has_continued(SampledSequence("stop", [0, 1], segments=segments, revision=BASE), KILLED)


def without_logprobs(good: SampledSequence) -> None:
    good.logprobs = None


def with_short_logprobs(good: SampledSequence) -> None:
    assert good.logprobs is not None
    good.logprobs = LogprobRows(np.arange(2, dtype=np.int32), -np.ones(2, np.float32))


def with_logprobs_of_other_tokens(good: SampledSequence) -> None:
    good.logprobs = LogprobRows(np.arange(4, dtype=np.int32) + 1, -np.ones(4, np.float32))


def with_nan_logprobs(good: SampledSequence) -> None:
    good.logprobs = LogprobRows(np.arange(4, dtype=np.int32), np.full(4, np.nan, np.float32))


def of_the_adapter(good: SampledSequence) -> None:
    good.revision = ADAPTED


def with_a_gap(good: SampledSequence) -> None:
    first, second = Segment(KILLED, BASE, 0, 1, "lost"), Segment(LEFT, BASE, 2, 4, "finished")
    good.segments = (first, second)


def with_an_overlap(good: SampledSequence) -> None:
    first, second = Segment(KILLED, BASE, 0, 3, "lost"), Segment(LEFT, BASE, 2, 4, "finished")
    good.segments = (first, second)


def with_segments_that_end_early(good: SampledSequence) -> None:
    good.segments = (Segment(LEFT, BASE, 0, 3, "finished"),)


def with_a_segment_of_other_weights(good: SampledSequence) -> None:
    good.segments = (Segment(LEFT, ADAPTED, 0, 4, "finished"),)


def with_a_segment_of_nobody(good: SampledSequence) -> None:
    good.segments = (Segment("127.0.0.1:3", BASE, 0, 4, "finished"),)


def with_a_last_segment_that_was_lost(good: SampledSequence) -> None:
    good.segments = (Segment(LEFT, BASE, 0, 4, "lost"),)


def failed(good: SampledSequence) -> None:
    good.stop_reason = "error"
    good.error = EngineFailed("it broke")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_logprobs, "0 logprobs for 4 tokens"),
        (with_short_logprobs, "2 logprobs for 4 tokens"),
        (with_logprobs_of_other_tokens, "logprobs of other tokens"),
        (with_nan_logprobs, "no logarithms of probabilities"),
        (of_the_adapter, "expected sha256:base"),
        (with_a_gap, "from 2 to 4 after 1 tokens"),
        (with_an_overlap, "from 2 to 4 after 3 tokens"),
        (with_segments_that_end_early, "segments of 3 tokens for 4"),
        (with_a_segment_of_other_weights, "a segment of revision"),
        (with_a_segment_of_nobody, "which nobody started"),
        (with_a_last_segment_that_was_lost, "the last segment ended with 'lost'"),
        (failed, "ended with error"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_spoilt_sequence_is_told(spoil: Callable[[SampledSequence], None], words: str) -> None:
    run = good_run()
    spoil(run[0].sequence)
    (problem,) = judge(run, EXPECTED).problems
    assert problem.startswith("input 0, sample 0: ")
    assert words in problem


def test_a_sequence_that_stops_short_of_its_length_is_told() -> None:
    short = replace(EXPECTED, max_tokens=5)
    (problem, *_) = judge(good_run(), short).problems
    assert problem == "input 0, sample 0: ended for its length after 4 of 5 tokens"
