"""What rank 0 tells the other ranks, and what they answer.

Two channels go to each rank. On the first, what rank 0 does itself, in that order: it is read
between two steps, and nothing answers. On the second, whatever must not wait for a step: adapters
to take in, and whether the rank lives.
"""

import select
import socket
import struct
import threading
from typing import Final

import msgspec

__all__ = [
    "Begin",
    "Channel",
    "Discard",
    "Drop",
    "Failed",
    "Hold",
    "Layer",
    "Load",
    "Meet",
    "Move",
    "Order",
    "Ping",
    "Plain",
    "Pong",
    "Ready",
    "Refused",
    "Replace",
    "Serve",
    "Stage",
    "StageWeights",
    "Staged",
    "Step",
    "Stop",
    "TakeOver",
]


Move = tuple[int, int, int, int, int, int]
"""A change of the cache: what is done (see ``moves``), and the numbers of what it is done to."""


class Load(msgspec.Struct, tag=True):
    """The first order: load a part of a model, and say ``Ready``; ``meeting`` is for ``Meet``."""

    rank: int
    ranks: int
    model: str
    device: str
    dtype: str
    trust_remote_code: bool
    threads: int | None
    meeting: str
    log_level: int


class Meet(msgspec.Struct, tag=True):
    """All have loaded: connect."""


class Begin(msgspec.Struct, tag=True):
    """Make room for a cache of ``budget`` tokens."""

    budget: int
    slab_tokens: int


class Plain(msgspec.Struct, tag=True):
    """The model's own forward pass of some tokens."""

    ids: list[int]


class TakeOver(msgspec.Struct, tag=True):
    """From here on the model attends through rows."""


class Serve(msgspec.Struct, tag=True):
    """Be ready for adapters, and for many steps."""

    max_adapters: int
    max_lora_rank: int
    pack_weights: bool


class Step(msgspec.Struct, tag=True):
    """One step, after ``moves`` in the cache.

    Of each chunk: number of its slab, row, first position, adapter and tokens, as columns i32;
    ``tokens`` i32 [T] of all chunks; ``keep`` i32 [n], the tokens whose logits are wanted.
    """

    moves: list[Move]
    slabs: bytes
    rows: bytes
    starts: bytes
    sizes: bytes
    adapters: bytes
    tokens: bytes
    keep: bytes


class Hold(msgspec.Struct, tag=True):
    """Make a staged adapter servable; it must get this ``number``."""

    stage: int
    digest: str
    number: int


class Drop(msgspec.Struct, tag=True):
    """Free an adapter."""

    digest: str


class Replace(msgspec.Struct, tag=True):
    """Put staged base weights in the place of those that serve; nothing runs."""

    stage: int


class Stop(msgspec.Struct, tag=True):
    """End."""


Order = Load | Meet | Begin | Plain | TakeOver | Serve | Step | Hold | Drop | Replace | Stop


class Layer(msgspec.Struct, array_like=True):
    """An adapter on one layer; its tensors are ``{place}.a``, ``{place}.b``, ``{place}.bias``."""

    name: str
    scale: float
    has_bias: bool


class Stage(msgspec.Struct, tag=True):
    """Take a part of an adapter to the device, and answer with ``Staged`` or ``Refused``.

    ``tensors`` in the form of a safetensors file.
    """

    stage: int
    layers: list[Layer]
    tensors: bytes


class StageWeights(msgspec.Struct, tag=True):
    """Load this rank's part of the base weights in a directory; answered as ``Stage`` is."""

    stage: int
    directory: str


class Discard(msgspec.Struct, tag=True):
    """Forget what was staged."""

    stage: int


class Ping(msgspec.Struct, tag=True):
    """Answer with ``Pong``."""


Request = Stage | StageWeights | Discard | Ping


class Ready(msgspec.Struct, tag=True):
    """The rank has loaded its part."""


class Staged(msgspec.Struct, tag=True):
    """What was to be staged is on the device, or waits in memory for it."""

    stage: int


class Refused(msgspec.Struct, tag=True):
    """It could not be staged: why."""

    stage: int
    message: str


class Pong(msgspec.Struct, tag=True):
    """The rank lives."""


class Failed(msgspec.Struct, tag=True):
    """The rank ends: why, and whether the model is at fault."""

    message: str
    is_model: bool


Answer = Ready | Staged | Refused | Pong | Failed

_SIZE: Final = struct.Struct("<Q")
_CHUNK: Final = 1 << 20

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Order | Request | Answer)


class Channel:
    """Messages over a socket, in order; one thread reads, any may write.

    Both raise OSError once the other side is gone: EOFError is one here.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._writing = threading.Lock()
        self.written = 0
        """Bytes that have left: while a message that fills the socket is written, the other side
        reads as long as this grows."""

    def send(self, message: Order | Request | Answer) -> None:
        """Write a message; waits where the other side does not read. Raises OSError."""
        self.send_bytes(_encoder.encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Write an encoded message."""
        with self._writing:
            self._write(data)

    def try_send(self, message: Order | Request | Answer) -> bool:
        """Write a short message; false where it would have to wait: behind another one that is
        being written, or for a side that does not read. Raises OSError."""
        if not self._writing.acquire(blocking=False):
            return False
        try:
            if self._socket.fileno() < 0:
                raise ConnectionError("this end is closed")
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if not poll.poll(0):
                return False
            self._write(_encoder.encode(message))
        finally:
            self._writing.release()
        return True

    def receive(self) -> Order | Request | Answer:
        """The next message. Raises ConnectionError at the end."""
        size = _SIZE.unpack(self._read(_SIZE.size))[0]
        message: Order | Request | Answer = _decoder.decode(self._read(size))
        return message

    def has_message(self, seconds: float) -> bool:
        """Whether something, or the end, comes within so long."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Close this end; who reads at the other sees it."""
        self._socket.close()

    def _write(self, data: bytes) -> None:
        for part in (_SIZE.pack(len(data)), data):
            left = memoryview(part)
            while left:
                sent = self._socket.send(left[:_CHUNK])
                self.written += sent
                left = left[sent:]

    def _read(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(min(size - len(data), _CHUNK))
            if not part:
                raise ConnectionError("the other side has gone")
            data += part
        return data
