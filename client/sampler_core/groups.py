"""The work that a sampler hands to a backend: one group per input, one child per sequence.

A :class:`Backend` is what differs between samplers: an engine in this process, or a fleet.
Everything else — inputs, templates, seeds, responses, errors, waiting — is shared
(``sampler_core.base``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.columns import Chunks
from sampler_api.errors import SamplerError
from sampler_api.frames import ERROR, RUNNING, ModelCard, RevisionRef
from sampler_api.params import SamplingParams
from sampler_api.results import Segment

__all__ = ["Backend", "ChildWork", "Group", "PromptScores"]


class PromptScores:
    """Prompt logprobs of a group: f32 [P] (element 0 NaN), top ids i32 and logprobs f32 [P, k]."""

    __slots__ = ("k", "logprobs", "top_ids", "top_logprobs")

    def __init__(self, k: int, logprobs: bytes, top_ids: bytes, top_logprobs: bytes) -> None:
        self.k = k
        self.logprobs = np.frombuffer(logprobs, np.float32)
        shape = (len(self.logprobs), k)
        self.top_ids = np.frombuffer(top_ids, np.int32).reshape(shape)
        self.top_logprobs = np.frombuffer(top_logprobs, np.float32).reshape(shape)


class ChildWork(msgspec.Struct, eq=False):
    """One sequence: what has arrived, and how it ended (``flag``, see ``sampler_api.frames``)."""

    group: "Group"
    k: int
    seed: int | None
    columns: Chunks
    attempt: int = 0
    flag: int = RUNNING
    matched: str | int | None = None
    error: SamplerError | None = None
    segments: tuple[Segment, ...] = ()
    given: int = 0
    """Tokens that the caller gave, to be continued."""
    started: int = 0
    """Tokens that were there when the present attempt began."""
    cost: int = 0
    """KV tokens that the present attempt takes of a replica's credit."""
    seen: int = 0
    """Number of the clock tick at which the present attempt last showed progress, as far as it is
    known: while a replica has it, the lanes of its session know better."""
    since: int = 0
    """Number of the clock tick at which the present attempt began."""
    handle: int = -1
    """Its handle at the replica that has it; -1 while it waits."""
    replica: str = ""
    """Name of the replica that has it, or had it last."""
    failures: int = 0
    """Attempts that ended in an engine error."""
    deaths: int = 0
    """Replicas in a row that died soon after they got this sequence, without a new token."""
    refused_by: frozenset[str] = frozenset()
    """Incarnations that could not serve this sequence."""
    last_error: SamplerError | None = None
    """Why the latest of them could not."""


class Group:
    """One input: prompt i32 [P], params and weights, and its n children.

    ``key`` (64 bit) is what affinity hashes; ``on_done`` is called once, from the backend's thread,
    when every child has ended.
    """

    __slots__ = (
        "children",
        "index",
        "is_interactive",
        "key",
        "on_done",
        "params",
        "prompt_ids",
        "prompt_scores",
        "ref",
        "seq",
        "unfinished",
    )

    def __init__(
        self,
        index: int,
        prompt_ids: NDArray[np.int32],
        params: SamplingParams,
        ref: RevisionRef,
        seeds: Sequence[int | None],
        key: int,
        on_done: "Callable[[Group], None]",
        is_interactive: bool = False,
    ) -> None:
        self.index = index
        self.prompt_ids = prompt_ids
        self.params = params
        self.ref = ref
        self.key = key
        self.on_done = on_done
        self.is_interactive = is_interactive
        self.seq = -1
        """Number of the request; set by a backend that needs one."""
        self.prompt_scores: PromptScores | None = None
        width = 0 if params.logprobs is None else max(1, params.logprobs)
        self.children = [ChildWork(self, k, seed, Chunks(width)) for k, seed in enumerate(seeds)]
        self.unfinished = len(self.children)

    def end_child(
        self,
        child: ChildWork,
        flag: int,
        *,
        matched: str | int | None = None,
        error: SamplerError | None = None,
    ) -> None:
        """A child has ended for good; the last one completes the group. Ending twice does
        nothing."""
        if child.flag != RUNNING:
            return
        child.flag = flag
        child.matched = matched
        child.error = error
        self.unfinished -= 1
        if self.unfinished == 0:
            self.on_done(self)

    def fail(self, error: SamplerError) -> None:
        """End every unfinished child with ``error``."""
        for child in self.children:
            self.end_child(child, ERROR, error=error)


class Backend(Protocol):
    """Runs groups. All methods may be called from any thread but the backend's own."""

    @property
    def is_ready(self) -> bool:
        """``card`` would not block."""
        ...

    def card(self) -> ModelCard:
        """What is served; blocks until known. Raises NoReplica, Unauthorized, ..."""
        ...

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """The tokenizer's files by name; empty when the model has none. Blocks."""
        ...

    def submit(self, groups: Sequence[Group]) -> None:
        """Run groups; never blocks. Every child ends sometime, by ``Group.end_child``."""
        ...

    def cancel(self, groups: Sequence[Group]) -> None:
        """End what is unfinished with ABORT; its tokens so far stay in the columns."""
        ...

    def create_adapter(self, config: Mapping[str, object]) -> str:
        """Make the zero adapter of a PEFT config where the engine is; returns its digest.
        Blocks."""
        ...

    def ensure_adapter(self, ref: RevisionRef) -> None:
        """Make sure that the engine can serve ``ref`` (all of a fleet on demand); blocks. Raises
        AdapterError."""
        ...

    def close(self) -> None:
        """End everything; unfinished groups fail with SamplerClosed. Idempotent."""
        ...
