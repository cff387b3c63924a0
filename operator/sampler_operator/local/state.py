"""What a runtime tells of its fleet in the status file, for `sampler up` and `sampler status`."""

import hashlib
from typing import Any

import msgspec

from ..status.reasons import Reason
from .folders import Folder

__all__ = ["FleetState", "PodLine", "digest_of", "read_state"]


class PodLine(msgspec.Struct, frozen=True):
    """A pod in a few words."""

    name: str
    state: str
    ready: bool
    restarts: int
    pid: int
    urls: tuple[str, ...]
    status_url: str
    log: str
    message: str = ""


class FleetState(msgspec.Struct, frozen=True):
    """``request``: digest of the spec and places that were taken in last, ``error`` why they could
    not be. ``sd`` is the SamplerDeployment with its status."""

    name: str
    pid: int
    request: str
    sd: dict[str, Any]
    pods: tuple[PodLine, ...] = ()
    error: str = ""
    is_leaving: bool = False

    def condition(self, name: str) -> dict[str, Any]:
        """A condition of the present generation; empty before there is one."""
        for condition in self.sd.get("status", {}).get("conditions", ()):
            if condition["type"] == name:
                is_new = condition.get("observedGeneration") == self.sd["metadata"]["generation"]
                return dict(condition) if is_new else {}
        return {}

    def holds(self, name: str) -> bool:
        """Whether a condition is true."""
        return bool(self.condition(name).get("status") == "True")

    @property
    def is_paused(self) -> bool:
        """Whether changes of the pod template wait because ``spec.paused`` is true."""
        return bool(self.condition("Progressing").get("reason") == Reason.PAUSED)


def digest_of(spec: bytes, places: bytes) -> str:
    """Identity of a request."""
    return hashlib.sha256(spec + b"\0" + places).hexdigest()


def read_state(folder: Folder) -> FleetState | None:
    """The last state that was written; ``None`` when there is none."""
    try:
        return msgspec.json.decode(folder.status.read_bytes(), type=FleetState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
