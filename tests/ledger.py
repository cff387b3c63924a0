"""The ledger checker: what engines made against what clients got. Pure, but for ``read_ledger``.

A sequence is known by its prompt, its seed and its weights. Engines write every token before
anybody sees it, so a token that a client has and no engine made is an invention, and a token made
twice shows. A token that an engine made behind a wrong prefix is in the ledger too: so every
sequence is also compared with the undisturbed one, which is known beforehand.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tests.undisturbed import undisturbed

from sampler_server.engines.sim.ledger import LedgerRecord, parse_records, prompt_digest
from sampler_server.engines.sim.tokens import weights_state

__all__ = ["Asked", "Got", "Violations", "check", "identity_of", "read_ledger"]

_AT_ONCE = 512


class Asked(NamedTuple):
    """One sequence that a client asked for; equal child seeds make equal sequences.

    ``length``: the tokens that it must have; ``None`` where stops decide.
    """

    prompt: tuple[int, ...]
    seed: int
    base: str
    adapter: str | None = None
    length: int | None = None


class Got(NamedTuple):
    """One finished sequence at a client. ``asked`` is what it was asked for and says it is.

    ``is_partial``: its end is missing, as the client was told; what is there must be right.
    """

    asked: Asked
    tokens: tuple[int, ...]
    is_partial: bool = False


@dataclass(frozen=True)
class Violations:
    """What is wrong, as sentences.

    ``redone`` is a cost and no fault: tokens made more than once; ``redone_most`` the most of one
    sequence.
    """

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong_tokens: list[str] = field(default_factory=list)
    wrong_revision: list[str] = field(default_factory=list)
    redone: int = 0
    redone_most: int = 0

    @property
    def count(self) -> int:
        """All faults."""
        faults = (self.lost, self.duplicated, self.wrong_tokens, self.wrong_revision)
        return sum(map(len, faults))

    def __str__(self) -> str:
        faults = [*self.lost, *self.duplicated, *self.wrong_tokens, *self.wrong_revision]
        return "\n".join(faults) or f"no violation, {self.redone} tokens made more than once"


Identity = tuple[int, int]
"""Prompt digest and seed modulo 2^64: a sequence under whatever weights."""


class _Made:
    """What engines made of one sequence under one revision: how often each token at its place."""

    def __init__(self) -> None:
        self.times: Counter[tuple[int, int]] = Counter()

    def add(self, record: LedgerRecord) -> None:
        self.times.update(enumerate(record.tokens, record.offset))

    def first_difference(self, tokens: Sequence[int]) -> int | None:
        """The first position whose token was never made there."""
        places = enumerate(tokens)
        return next((place for place, token in places if (place, token) not in self.times), None)

    def redone(self, wanted: int) -> int:
        """Tokens that were made though ``wanted`` sequences had them already."""
        if len(self.times) == self.times.total():
            return 0
        at: Counter[int] = Counter()
        for (position, _), times in self.times.items():
            at[position] += times
        return sum(max(0, times - max(1, wanted)) for times in at.values())


def read_ledger(paths: Path | Iterable[Path]) -> list[LedgerRecord]:
    """The records of one ledger file or of several, torn records left out."""
    every = [paths] if isinstance(paths, Path) else paths
    return [record for path in every for record in parse_records(path.read_bytes())]


def check(
    records: Iterable[LedgerRecord], asked: Iterable[Asked], got: Iterable[Got]
) -> Violations:
    """Compare. Sequences with a length must come of engines that draw no end of sequence."""
    found = Violations()
    made: dict[tuple[Identity, int], _Made] = defaultdict(_Made)
    for record in records:
        if record.seed is not None:
            made[(record.prompt, record.seed), record.weights].add(record)
    answers = list(got)
    _check_numbers(Counter(asked), Counter(answer.asked for answer in answers), found)
    shares = Counter(
        (_identity(a.asked), weights_state(a.asked.base, a.asked.adapter)) for a in answers
    )
    for start in range(0, len(answers), _AT_ONCE):
        part = answers[start : start + _AT_ONCE]
        for answer, true in zip(part, _undisturbed(part), strict=True):
            _check_content(answer, true, made, found)
    redone = [sequence.redone(shares[key]) for key, sequence in made.items()]
    return Violations(
        found.lost,
        found.duplicated,
        found.wrong_tokens,
        found.wrong_revision,
        sum(redone),
        max(redone, default=0),
    )


def identity_of(prompt: Sequence[int], seed: int) -> Identity:
    """By which records of a ledger name a sequence."""
    return prompt_digest(np.array(prompt, np.int32)), seed % (1 << 64)


def _identity(asked: Asked) -> Identity:
    return identity_of(asked.prompt, asked.seed)


def _check_numbers(asked: Counter[Asked], got: Counter[Asked], found: Violations) -> None:
    for one, times in (asked - got).items():
        found.lost.append(f"{_name(one)}: {times} not delivered")
    for one, times in (got - asked).items():
        found.duplicated.append(f"{_name(one)}: {times} more than asked for")


def _undisturbed(answers: Sequence[Got]) -> list[list[int]]:
    """The tokens that each should have, as far as it got; where stops decide, those that it has."""
    asked = [answer.asked for answer in answers]
    tokens, _ = undisturbed(
        [one.prompt for one in asked],
        [one.seed for one in asked],
        [weights_state(one.base, one.adapter) for one in asked],
        max(len(answer.tokens) for answer in answers),
    )
    return [
        list(answer.tokens) if answer.asked.length is None else row[: len(answer.tokens)]
        for row, answer in zip(tokens.tolist(), answers, strict=True)
    ]


def _check_content(
    answer: Got,
    true: Sequence[int],
    made: dict[tuple[Identity, int], _Made],
    found: Violations,
) -> None:
    asked, tokens = answer.asked, answer.tokens
    name, identity = _name(asked), _identity(asked)
    weights = weights_state(asked.base, asked.adapter)
    if asked.length is not None and len(tokens) < asked.length and not answer.is_partial:
        found.lost.append(f"{name}: {len(tokens)} tokens of {asked.length}")
    if asked.length is not None and len(tokens) > asked.length:
        found.duplicated.append(f"{name}: {len(tokens)} tokens instead of {asked.length}")
    at = made[identity, weights].first_difference(tokens)
    if at is None:
        pairs = enumerate(zip(tokens, true, strict=True))
        at = next((place for place, (token, wanted) in pairs if token != wanted), None)
        if at is not None:
            found.wrong_tokens.append(f"{name}: token {at} was made behind another prefix")
        return
    elsewhere = [
        key
        for key, other in made.items()
        if key[0] == identity and key[1] != weights and _has(other, answer, at)
    ]
    if elsewhere:
        found.wrong_revision.append(f"{name}: token {at} was made by other weights")
    else:
        found.wrong_tokens.append(f"{name}: token {at} was made by no engine")


def _has(made: _Made, answer: Got, at: int) -> bool:
    return (at, answer.tokens[at]) in made.times


def _name(asked: Asked) -> str:
    adapter = f", adapter {asked.adapter}" if asked.adapter else ""
    return f"prompt {list(asked.prompt[:4])}… seed {asked.seed}{adapter}"
