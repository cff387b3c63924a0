"""What an operator process is told when it starts."""

from dataclasses import dataclass, field
from importlib.metadata import version

__all__ = ["OperatorConfig", "default_images"]

_REGISTRY = "ghcr.io/sampler-operator"


def default_images() -> dict[str, str]:
    """Images by engine, of this version."""
    tag = version("sampler-operator")
    return {engine: f"{_REGISTRY}/sampler-{engine}:{tag}" for engine in ("vllm", "torch", "sim")}


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """``namespaces``: only these are served, with the rights of a Role; none means all.
    ``own_namespace``: where the operator itself runs; NetworkPolicies let it in."""

    kubeconfig: str | None = None
    namespaces: tuple[str, ...] = ()
    own_namespace: str = ""
    images: dict[str, str] = field(default_factory=default_images)
    workers: int = 16
    resync_seconds: float = 600.0
    metrics_port: int = 8080
