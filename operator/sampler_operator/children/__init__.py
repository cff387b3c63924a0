"""The objects that stand for a fleet, one builder each; ``None`` means that it is not wanted."""

from .adapters import adapters_map
from .deployment import deployment
from .protection import disruption_budget, network_policy, pod_monitor
from .services import discovery_service, http_service

__all__ = [
    "adapters_map",
    "deployment",
    "discovery_service",
    "disruption_budget",
    "http_service",
    "network_policy",
    "pod_monitor",
]
