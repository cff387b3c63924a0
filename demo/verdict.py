"""Whether a run kept the promise: every sequence once, from the weights that were asked for, whole.

Pure: it looks at what came back, and is tested with violations that are made on purpose.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sampler_api.results import SampledSequence
from sampler_api.revisions import Revision

__all__ = ["Expectation", "Sample", "Verdict", "has_continued", "judge"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence that came back, under the id of what was asked for: input and child."""

    input: int
    child: int
    sequence: SampledSequence


@dataclass(frozen=True, slots=True)
class Expectation:
    """What was asked for, and of whom: the revision of every input, children per input, names of
    the replicas, and which of them was killed."""

    revisions: Mapping[int, Revision]
    children: int
    replicas: frozenset[str]
    killed: str
    max_tokens: int


@dataclass(slots=True)
class Verdict:
    """Counts, and a line for everything that is wrong; no line means kept."""

    sequences: int = 0
    lost: int = 0
    duplicated: int = 0
    continued: int = 0
    problems: list[str] = field(default_factory=list)


def has_continued(sequence: SampledSequence, killed: str) -> bool:
    """Some of its tokens came from the killed process, and later ones from another: of another
    replica, or the one that was started in its place and has its name."""
    return any(segment.replica == killed for segment in sequence.segments[:-1])


def judge(samples: Sequence[Sample], expected: Expectation) -> Verdict:
    """Compare; see :class:`Verdict`."""
    verdict = Verdict(sequences=len(samples))
    seen = Counter((sample.input, sample.child) for sample in samples)
    wanted = {(i, child) for i in expected.revisions for child in range(expected.children)}
    verdict.lost = len(wanted - set(seen))
    verdict.duplicated = sum(seen.values()) - len(seen)
    if verdict.lost:
        verdict.problems.append(f"lost: {sorted(wanted - set(seen))}")
    if verdict.duplicated:
        twice = sorted(id_ for id_, times in seen.items() if times > 1)
        verdict.problems.append(f"duplicated: {twice}")
    for sample in samples:
        where = f"input {sample.input}, sample {sample.child}"
        if (sample.input, sample.child) not in wanted:
            verdict.problems.append(f"{where}: was not asked for")
            continue
        found = _wrong(sample.sequence, expected.revisions[sample.input], expected)
        verdict.problems += [f"{where}: {line}" for line in found]
        verdict.continued += has_continued(sample.sequence, expected.killed)
    if not verdict.continued:
        verdict.problems.append("no sequence was continued: the kill met none halfway")
    return verdict


def _wrong(sequence: SampledSequence, revision: Revision, expected: Expectation) -> list[str]:
    if sequence.stop_reason not in ("stop", "length"):
        return [f"ended with {sequence.stop_reason}: {sequence.error}"]
    lines = []
    tokens = len(sequence.token_ids)
    if not 0 < tokens <= expected.max_tokens:
        lines.append(f"{tokens} tokens, expected 1 to {expected.max_tokens}")
    if sequence.stop_reason == "length" and tokens != expected.max_tokens:
        lines.append(f"ended for its length after {tokens} of {expected.max_tokens} tokens")
    rows = sequence.logprobs
    if rows is None or len(rows) != tokens:
        lines.append(f"{0 if rows is None else len(rows)} logprobs for {tokens} tokens")
    else:
        sampled = [row[0] for row in rows]
        if [token for token, _ in sampled] != sequence.tokens:
            lines.append("logprobs of other tokens than the sampled ones")
        values = np.array([value for _, value in sampled])
        if not (np.isfinite(values).all() and (values <= 0).all()):
            lines.append("logprobs that are no logarithms of probabilities")
    if sequence.revision != revision:
        lines.append(f"revision {sequence.revision}, expected {revision}")
    return lines + _wrong_segments(sequence, revision, expected)


def _wrong_segments(
    sequence: SampledSequence, revision: Revision, expected: Expectation
) -> list[str]:
    lines = []
    position = 0
    for segment in sequence.segments:
        if segment.start != position or segment.end <= segment.start:
            lines.append(f"a segment from {segment.start} to {segment.end} after {position} tokens")
        position = segment.end
        if segment.revision != revision:
            lines.append(f"a segment of revision {segment.revision}, expected {revision}")
        if segment.replica not in expected.replicas:
            lines.append(f"a segment of replica {segment.replica}, which nobody started")
    if position != len(sequence.token_ids):
        lines.append(f"segments of {position} tokens for {len(sequence.token_ids)}")
    if sequence.segments and sequence.segments[-1].ended != "finished":
        lines.append(f"the last segment ended with {sequence.segments[-1].ended!r}")
    return lines
