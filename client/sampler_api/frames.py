"""The messages of a session, protocol ``sampler.v1``: one WebSocket per client process and replica.

A WebSocket message is one *frame*: ``u32 header length | msgpack header | columns``. Headers are
the structs of this module; columns are little-endian arrays in the order that the header lists them
(``codec``). The client opens with :class:`ClientHello`, the server answers :class:`ServerHello` or
closes; then each side sends :class:`ClientFrame` and :class:`ServerFrame` at will.

A *handle* is a small number that the client gives to one attempt of one sequence on one session. It
is free again when a delta with a flag other than ``RUNNING`` has arrived for it; a server takes the
acks of a frame before its submits and joins, and its cancels after them. An *id* is (client uuid,
seq, child); ``attempt`` fences: columns of an older attempt are never taken.

Columns of a :class:`ClientFrame`: prompts i32 one after another, then outputs i32 (the delivered
tokens of every child with ``output_length`` > 0, in order), then acks u32.

Columns of a :class:`ServerFrame`: for each block handles, counts and flags (unsigned, widths in the
block), tokens i32, then logprobs f32 (k = 1) or top ids i32 [T, k] and top logprobs f32 [T, k] (k >
1); then for each prompt block logprobs f32 [P], top ids i32 [P, k], top logprobs f32 [P, k].
"""

from typing import Final, Literal

import msgspec

from .names import PROTOCOL_VERSION

__all__ = [
    "ABORT",
    "ERROR",
    "FLAG_OF_REASON",
    "HANDED_OVER",
    "LENGTH",
    "REASON_OF_FLAG",
    "RUNNING",
    "STOP",
    "Beat",
    "Block",
    "CancelId",
    "Child",
    "ClientFrame",
    "ClientHello",
    "Detail",
    "Grant",
    "Join",
    "Load",
    "ModelCard",
    "PromptBlock",
    "RevisionRef",
    "ServerFrame",
    "ServerHello",
    "Submit",
]

RUNNING: Final = 0
STOP: Final = 1
LENGTH: Final = 2
ABORT: Final = 3
ERROR: Final = 4
HANDED_OVER: Final = 5
"""The replica lets the sequence go (drain): the client continues it elsewhere."""

REASON_OF_FLAG: Final[dict[int, Literal["stop", "length", "abort", "error"]]] = {
    STOP: "stop",
    LENGTH: "length",
    ABORT: "abort",
    ERROR: "error",
}
FLAG_OF_REASON: Final = {reason: flag for flag, reason in REASON_OF_FLAG.items()}


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a session may have in flight at the replica: absolute limits; a higher epoch replaces a
    lower one."""

    epoch: int
    sequences: int
    tokens: int


class Load(msgspec.Struct, frozen=True, array_like=True):
    """The replica's load: sequences running and waiting, slots, KV tokens used and in all, engine
    steps."""

    running: int = 0
    waiting: int = 0
    slots: int = 0
    kv_used: int = 0
    kv_total: int = 0
    steps: int = 0


class ModelCard(msgspec.Struct, frozen=True):
    """What a replica serves. Lengths in tokens; ``tokenizer`` is the digest of the tokenizer
    files."""

    model: str
    engine: str
    base: str
    tokenizer: str | None
    vocab_size: int
    context_limit: int
    eos_ids: tuple[int, ...]
    logprobs_modes: tuple[str, ...]
    max_logprobs: int
    max_adapters: int = 0
    max_lora_rank: int = 0
    is_reproducible: bool = True


class ClientHello(msgspec.Struct, frozen=True, tag="hello"):
    """The first frame of a client; ``client`` is the uuid of its ids, ``weight`` its share when
    credits are short."""

    client: str
    protocol: int = PROTOCOL_VERSION
    weight: float = 1.0
    name: str = ""


class ServerHello(msgspec.Struct, frozen=True, tag="welcome"):
    """The first frame of a server. ``incarnation`` is new for every process: another one is another
    replica."""

    replica: str
    incarnation: str
    card: ModelCard
    grant: Grant
    fleet: str = ""
    siblings: tuple[int, ...] = ()
    max_frame_bytes: int = 64 << 20
    protocol: int = PROTOCOL_VERSION
    succeeds: tuple[str, ...] = ()
    """Bases that were replaced here by the one of the card, whose unfinished sequences are to go on
    under it once no replica serves theirs."""


class RevisionRef(msgspec.Struct, frozen=True, array_like=True):
    """Weights that a request names, and where a replica that lacks the adapter may read it."""

    base: str
    adapter: str | None = None
    name: str = ""
    path: str | None = None


class Child(msgspec.Struct, array_like=True, gc=False):
    """One sequence of an input."""

    handle: int
    child: int
    attempt: int
    seed: int | None
    output_length: int


class Submit(msgspec.Struct, array_like=True):
    """One input with its children; prompt, params and revision are indices into the frame's
    tables."""

    seq: int
    prompt: int
    params: int
    revision: int
    children: list[Child]
    is_interactive: bool = False


class Join(msgspec.Struct, array_like=True, gc=False):
    """Go on with a stream that this replica (same incarnation) already runs.

    ``offset`` counts from the first output token of the sequence, those of earlier attempts
    included.
    """

    handle: int
    seq: int
    child: int
    attempt: int
    offset: int


class CancelId(msgspec.Struct, array_like=True, gc=False):
    """End or forget an attempt that no handle of this session names."""

    seq: int
    child: int
    attempt: int


class ClientFrame(msgspec.Struct, tag="c", omit_defaults=True):
    """What a client says. ``demand`` = sequences and tokens that wait at the client for this
    replica."""

    params: list[msgspec.Raw] = []
    revisions: list[RevisionRef] = []
    prompts: list[int] = []
    submits: list[Submit] = []
    joins: list[Join] = []
    cancels: list[int] = []
    cancel_ids: list[CancelId] = []
    acks: int = 0
    demand: tuple[int, int] | None = None
    bye: bool = False


class Block(msgspec.Struct, array_like=True, gc=False):
    """Deltas that carry the same kind of columns: k = 0 none, 1 the sampled logprob, > 1
    candidates.

    Widths are the bytes of one handle (1, 2 or 4), one count and one flag. A column that says
    nothing is left out, with a width of 0: counts that are all alike, flags of which none is set.
    """

    k: int
    deltas: int
    tokens: int
    handle_width: int
    count_width: int
    flag_width: int = 1


class PromptBlock(msgspec.Struct, array_like=True, gc=False):
    """Prompt logprobs for the input of ``handle``."""

    handle: int
    length: int
    k: int


class Detail(msgspec.Struct, array_like=True, gc=False):
    """More about a flag: what matched (text or id), or the error."""

    handle: int
    matched: str | int | None = None
    code: str | None = None
    message: str = ""
    field: str | None = None
    not_reproducible: bool = False


class Beat(msgspec.Struct, array_like=True, gc=False):
    """A sign of life for streams without new tokens: prompt tokens prefilled, of how many (0 of n
    = queued)."""

    handles: list[int]
    done: int
    total: int


class ServerFrame(msgspec.Struct, tag="s", omit_defaults=True):
    """What a server says. Details come with the delta that carries their handle's flag."""

    blocks: list[Block] = []
    details: list[Detail] = []
    prompts: list[PromptBlock] = []
    beats: list[Beat] = []
    load: Load | None = None
    grant: Grant | None = None
    draining: bool = False
    bye: str | None = None
