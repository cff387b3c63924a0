"""Adapters held in use while sequences run on them: acquired once a batch, let go with its last."""

from sampler_api.frames import RUNNING

from .batches import Adapters, Batch
from .engines.base import EngineRequest
from .streams import Lease, Stream

__all__ = ["lease_adapter", "let_go"]


async def lease_adapter(adapters: Adapters, batch: Batch) -> list[EngineRequest]:
    """Acquire the batch's adapter for those of its streams that still run; their requests.

    Raises AdapterError, and what the engine raises on loading.
    """
    digest = batch.ref.adapter
    assert digest is not None
    await adapters.acquire(batch.ref)
    alive = [
        (stream, request)
        for stream, request in zip(batch.streams, batch.requests, strict=True)
        if stream.flag == RUNNING
    ]
    if not alive:
        adapters.release(digest)
        return []
    lease = Lease(digest, len(alive))
    for stream, _ in alive:
        stream.lease = lease
        stream.is_parked = False
    return [request for _, request in alive]


def let_go(adapters: Adapters | None, stream: Stream) -> None:
    """A stream has ended: it does not hold its adapter any more."""
    lease = stream.lease
    if lease is None:
        return
    stream.lease = None
    lease.count -= 1
    if lease.count == 0 and adapters is not None:
        adapters.release(lease.digest)
