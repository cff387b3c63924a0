"""What ranks do together: sums and joins of tensors.

The group is the engine's own: torch's default group may be in use by whoever runs a sampler in a
training process. All ranks are on one machine, and talk on its loopback interface.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["Group"]

_LOOPBACK: Final = "127.0.0.1"
_MEETING_TIMEOUT: Final = timedelta(minutes=2)
_TIMEOUT: Final = timedelta(hours=1)
"""Of a sum or join. A rank that does not come to it is found by the watchdog long before."""


class Group:
    """The ranks of one engine; ``connect`` comes before anything else."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._group: Any = None
        self._is_nccl = False

    def connect(self, device: torch.device, meeting: Path) -> None:
        """Meet the others, who come now, through a file; blocks until all have come."""
        store = dist.FileStore(str(meeting), self.size)  # type: ignore[attr-defined]
        store.set_timeout(_MEETING_TIMEOUT)
        if device.type == "cuda":
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
            options: Any = dist.ProcessGroupNCCL.Options()
            options._timeout = _TIMEOUT
            self._group = dist.ProcessGroupNCCL(store, self.rank, self.size, options)
            self._is_nccl = True
            return
        kind: Any = dist.ProcessGroupGloo
        options = kind._Options()
        options._timeout = _MEETING_TIMEOUT
        options._devices = [kind.create_device(hostname=_LOOPBACK)]
        self._group = kind(store, self.rank, self.size, options)
        self._group._set_default_timeout(_TIMEOUT)

    def sum(self, part: Tensor) -> Tensor:
        """The sum over all ranks, in place where ``part`` is contiguous; equal bits on all."""
        part = part.contiguous()
        self._group.allreduce([part]).wait()
        return part

    def join(self, part: Tensor, total: int) -> Tensor:
        """Parts of the last axis, of equal width but for the last, side by side: [..., total]."""
        part = self._padded(part, total)
        parts = [torch.empty_like(part) for _ in range(self.size)]
        self._group.allgather([parts], [part]).wait()
        return torch.cat(parts, -1)[..., :total]

    def join_at_first(self, part: Tensor, total: int) -> Tensor:
        """As ``join``, on rank 0; the others get zeros, and send no more than their part."""
        part = self._padded(part, total)
        options = dist.GatherOptions()
        options.rootRank = 0
        if self.rank:
            self._group.gather([], [part], options).wait()
            return part.new_zeros((*part.shape[:-1], total))
        parts = [torch.empty_like(part) for _ in range(self.size)]
        self._group.gather([parts], [part], options).wait()
        return torch.cat(parts, -1)[..., :total]

    def abort(self) -> None:
        """Let go of who waits for a rank that has gone: on a GPU nothing else does."""
        if self._is_nccl:
            self._group.abort()

    def _padded(self, part: Tensor, total: int) -> Tensor:
        width = -(-total // self.size)
        missing = width - part.shape[-1]
        return (pad(part, (0, missing)) if missing else part).contiguous()
