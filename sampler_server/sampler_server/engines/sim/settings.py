"""What can be set on ``sim``: size, latency, and the faults that tests ask for."""

from dataclasses import dataclass, field
from pathlib import Path

from sampler_api.errors import InvalidRequest

from .latency import LatencyModel
from .model import CONTEXT_LIMIT

__all__ = ["SimFaults", "SimSettings"]


@dataclass(frozen=True, slots=True)
class SimFaults:
    """Faults on purpose.

    ``fail_rate``: this share of the sequences ends with EngineFailed somewhere on the way.
    ``fail_token``: a prompt that contains this id fails at once, on every replica. ``stall_after``:
    the engine wedges after so many steps.
    """

    fail_rate: float = 0.0
    fail_token: int | None = None
    stall_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fail_rate <= 1:
            raise InvalidRequest(f"fail_rate: must be in [0, 1], not {self.fail_rate}", "fail_rate")
        if self.stall_after is not None and self.stall_after < 0:
            raise InvalidRequest(
                f"stall_after: must be >= 0, not {self.stall_after}", "stall_after"
            )


@dataclass(frozen=True, slots=True)
class SimSettings:
    """Settings of one engine; the defaults answer at once.

    ``slots`` sequences and ``kv_tokens`` tokens run at once. ``eos_rate`` is the probability that a
    token is the end of sequence. ``ledger``: a file to which every token is written before anybody
    else sees it.
    """

    model: str = "sim"
    slots: int = 1024
    kv_tokens: int = 8 << 20
    context_limit: int = CONTEXT_LIMIT
    max_adapters: int = 64
    max_lora_rank: int = 512
    eos_rate: float = 0.0
    latency: LatencyModel = field(default_factory=LatencyModel)
    faults: SimFaults = field(default_factory=SimFaults)
    ledger: Path | None = None

    def __post_init__(self) -> None:
        for name in ("slots", "kv_tokens", "context_limit"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name}: must be >= 1, not {getattr(self, name)}", name)
        if self.max_adapters < 0:
            raise InvalidRequest(
                f"max_adapters: must be >= 0, not {self.max_adapters}", "max_adapters"
            )
        if not 0 <= self.eos_rate <= 1:
            raise InvalidRequest(f"eos_rate: must be in [0, 1], not {self.eos_rate}", "eos_rate")
