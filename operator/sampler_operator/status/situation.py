"""What a status is made from: everything that one pass has found and done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sampler_api.fleet import AdaptersConfig

from ..claims import AccessModes
from ..errors import ClusterError
from ..observed import Observed
from ..plan import Plan
from ..ports import DeviceRoom, Event
from ..reports import Report

__all__ = ["Situation"]


@dataclass(frozen=True, slots=True)
class Situation:
    """``observed`` is what is there after the writes of the pass, and ``failures`` are those that
    were refused; ``reports`` and ``warnings`` (the newest first) go by pod, ``modes`` by claim."""

    observed: Observed
    plan: Plan
    config: AdaptersConfig
    reports: Mapping[str, Report] = field(default_factory=dict)
    warnings: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    room: DeviceRoom | None = None
    modes: Mapping[str, AccessModes] = field(default_factory=dict)
    failures: tuple[ClusterError, ...] = ()
