"""How pods are replaced, and what stands beside them."""

from typing import Annotated, Literal

from pydantic import Field

from .base import IntOrPercent, JsonObject, Rule, SpecModel
from .volumes import SecretKeyRef

__all__ = [
    "AuthSpec",
    "DisruptionBudgetSpec",
    "MonitoringSpec",
    "NetworkPolicySpec",
    "PodMonitorSpec",
    "RolloutSpec",
    "TlsSpec",
]


def _is_zero(value: int | str) -> bool:
    return str(value) in ("0", "0%")


class RolloutSpec(SpecModel):
    """How a changed pod template reaches the replicas."""

    strategy: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    """``Recreate`` ends all pods before it starts new ones: for templates that need other nodes or
    all GPUs."""
    max_surge: IntOrPercent = 0
    """Pods beyond ``replicas`` during a rollout; more than 0 needs free GPUs."""
    max_unavailable: IntOrPercent = 1
    """Replicas that may be missing during a rollout."""
    drain_seconds: int = Field(default=30, ge=0, le=86400)
    """Plain HTTP requests may run so long on in a pod that leaves; sequences of samplers are handed
    over within seconds."""
    progress_deadline_seconds: int | None = Field(default=None, ge=1, le=1209600)
    """A rollout without progress for so long has failed; by default startupTimeoutSeconds + 300."""

    rules = (
        Rule(
            # Also holds for the {} that is the default of `rollout`: it is judged as it stands.
            cel="!has(self.maxSurge) || !has(self.maxUnavailable)"
            " || !(string(self.maxSurge) in ['0', '0%'])"
            " || !(string(self.maxUnavailable) in ['0', '0%'])"
            " || (has(self.strategy) && self.strategy == 'Recreate')",
            message="maxSurge and maxUnavailable must not both be 0, or nothing could ever be"
            " replaced",
            holds=lambda rollout: (
                rollout.strategy == "Recreate"
                or not (_is_zero(rollout.max_surge) and _is_zero(rollout.max_unavailable))
            ),
        ),
    )


class AuthSpec(SpecModel):
    """Bearer tokens of the data port."""

    token_secret_ref: SecretKeyRef
    """Secret whose key holds lines of ``name:role:token``; roles are sample, publish and admin."""


class TlsSpec(SpecModel):
    """TLS of the data port."""

    secret_name: str = Field(min_length=1, max_length=253)
    """Secret of type kubernetes.io/tls in the same namespace."""


class DisruptionBudgetSpec(SpecModel):
    """The PodDisruptionBudget."""

    enabled: bool = True
    """Whether there is one."""
    max_unavailable: IntOrPercent = 1
    """Replicas that evictions may take at a time."""


class PodMonitorSpec(SpecModel):
    """A PodMonitor of the Prometheus operator."""

    labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=64
    )
    """Labels by which Prometheus selects it."""
    interval: str = Field(default="15s", pattern="^[0-9]+(ms|s|m|h)$", max_length=16)
    """How often replicas are scraped."""


class MonitoringSpec(SpecModel):
    """How the fleet is watched."""

    pod_monitor: PodMonitorSpec | None = None
    """Makes a PodMonitor; needs the Prometheus operator's CRDs."""


class NetworkPolicySpec(SpecModel):
    """A NetworkPolicy for the replicas."""

    enabled: bool = False
    """Whether there is one. Without it the cluster's own rules apply."""
    from_: tuple[JsonObject, ...] = Field(default=(), alias="from", max_length=32)
    """Peers that may use the data port, as in a NetworkPolicy; pods of the fleet always may."""
    monitoring_namespaces: tuple[Annotated[str, Field(max_length=63)], ...] = Field(
        default=(), max_length=8
    )
    """Namespaces that may use the management port, beside the operator's."""
