"""Which sequences run, and how much of each in the next step.

Sequences wait first come, first served; the head of the queue is never passed. One runs while it
holds a row. Every step feeds one token of each sequence that decodes, and a bounded number of
prompt tokens, oldest first. Where a growing sequence finds no memory, the youngest gives its row
up and waits at the head of the queue: it is read again later, and its draws are the same.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np

from .memory import KVMemory
from .sequence import Sequence

__all__ = ["Scheduler", "Share"]

Share = tuple[Sequence, int]
"""A sequence and the tokens of it that a step feeds."""

_PREFILL_ONLY_FACTOR = 4


class Scheduler:
    """Queue, running sequences and their memory."""

    def __init__(
        self,
        memory: KVMemory,
        slots: int,
        prefill_tokens: int,
        scored_tokens: int,
        batch_invariant: bool = False,
    ) -> None:
        self.memory = memory
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._slots = slots
        self._prefill_tokens = prefill_tokens
        self._scored_tokens = scored_tokens
        self._batch_invariant = batch_invariant

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its row."""
        if sequence.kv is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._drop_row(sequence)

    def next_shares(self) -> list[Share]:
        """Admit what fits, and share the next step out; empty when nothing runs."""
        self._admit()
        for sequence in self.running:
            # A leader that left before its prompt was read.
            if sequence.leader is not None and sequence.leader.kv is None:
                sequence.leader = None
                self._share_prompt(sequence)
        if self._batch_invariant:
            return self._single_share()
        decoding = [s for s in self.running if s.leader is None and s.missing == 1]
        shares = [(s, 1) for s in decoding]
        left = self._prefill_tokens * (1 if decoding else _PREFILL_ONLY_FACTOR)
        for sequence in self.running:
            if left <= 0:
                break
            if sequence.leader is None and sequence.missing > 1:
                count = min(left, sequence.missing, self._bound(sequence))
                shares.append((sequence, count))
                left -= count
        return self._with_room(shares)

    def followers_of(self, leader: Sequence) -> list[Sequence]:
        """Fresh sequences that may draw from the logits of a fresh leader."""
        if leader.drawn:
            return []
        return [s for s in self.running if s.leader is leader and s.drawn == 0]

    def release_followers(self, leader: Sequence) -> None:
        """Copy the prompt that a leader has read to all sequences that wait for it."""
        shares_logits = self.followers_of(leader)
        for sequence in self.running:
            if sequence.leader is not leader or sequence.kv is None or leader.kv is None:
                continue
            # Where the logits are not shared, the last token is read again for its own.
            length = leader.prompt_length
            if sequence not in shares_logits:
                length = min(length, sequence.length - 1)
            self.memory.copy(leader.kv, sequence.kv, length)
            sequence.leader = None

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._slots:
            sequence = self.waiting[0]
            row = self.memory.place(min(sequence.length + 1, self.memory.row_limit))
            if row is None:
                return
            self.waiting.popleft()
            sequence.kv = row
            self._share_prompt(sequence)
            self.running.append(sequence)

    def _share_prompt(self, sequence: Sequence) -> None:
        """Take the prompt from a sequence of the same group, or wait for one that reads it."""
        if sequence.kv is None or sequence.scorer is not None:
            return
        for mate in self._mates(sequence):
            if mate.kv is None:
                continue
            if mate.stored >= mate.prompt_length:
                # One token stays to be read: its logits give the next.
                if self._batch_invariant:
                    continue
                length = min(sequence.prompt_length, sequence.length - 1)
                self.memory.copy(mate.kv, sequence.kv, length)
                return
            if mate.leader is None and not (self._batch_invariant and mate.drawn):
                sequence.leader = mate
                return

    def _mates(self, sequence: Sequence) -> Iterable[Sequence]:
        for mate in self.running:
            if mate is sequence:
                return
            if (
                mate.request.group == sequence.request.group
                and mate.adapter == sequence.adapter
                and np.array_equal(mate.request.prompt_ids, sequence.request.prompt_ids)
            ):
                yield mate

    def _bound(self, sequence: Sequence) -> int:
        return (
            self._prefill_tokens * _PREFILL_ONLY_FACTOR
            if (sequence.scorer is None)
            else self._scored_tokens
        )

    def _single_share(self) -> list[Share]:
        """One sequence, in turn, in pieces that depend on nothing but itself."""
        for sequence in self.running:
            if sequence.leader is not None:
                continue
            count = 1
            if sequence.stored < sequence.prompt_length:
                piece = min(self._prefill_tokens, self._scored_tokens)
                count = min(
                    piece - sequence.stored % piece, sequence.prompt_length - sequence.stored
                )
            self.running.remove(sequence)
            self.running.append(sequence)
            return self._with_room([(sequence, count)])
        return []

    def _with_room(self, shares: list[Share]) -> list[Share]:
        """The shares whose rows have room, after making it where that is possible."""
        for sequence, count in shares:
            while sequence.kv is not None and not self.memory.grow(
                sequence.kv, sequence.stored + count
            ):
                self._preempt(self.running[-1])
        return [(sequence, count) for sequence, count in shares if sequence.kv is not None]

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._drop_row(sequence)
        self.waiting.appendleft(sequence)

    def _drop_row(self, sequence: Sequence) -> None:
        if sequence.kv is not None:
            self.memory.free(sequence.kv)
        sequence.kv = None
        sequence.leader = None
