"""Fields of pods that are handed on: devices, environment, and where pods may run."""

from typing import Annotated, Literal

from pydantic import Field

from .base import JsonObject, Rule, SpecModel

__all__ = ["EnvVar", "GpuSpec", "LocalSecret", "PodMetadata", "Toleration"]

LabelMap = dict[str, Annotated[str, Field(max_length=63)]]


class GpuSpec(SpecModel):
    """Devices of a pod."""

    count: int | None = Field(default=None, ge=0, le=64)
    """Devices per pod: 0 runs on CPUs; by default tensorParallelSize, and 0 for sim."""
    resource_name: str = Field(
        default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=253
    )
    """Extended resource that stands for one device."""


class EnvVar(SpecModel):
    """An environment variable, as in a container."""

    name: str = Field(pattern=r"^[^=\s]+$", max_length=256)
    """Name of the variable."""
    value: str | None = Field(default=None, max_length=8192)
    """Its value."""
    value_from: JsonObject | None = None
    """A source of the value, as in a container."""

    rules = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            message="give value or valueFrom, not both",
            holds=lambda variable: variable.value is None or variable.value_from is None,
        ),
    )


class Toleration(SpecModel):
    """A taint of nodes that pods accept."""

    key: str | None = Field(default=None, max_length=317)
    """Key of the taint; every key if left out."""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    """How the value is compared."""
    value: str | None = Field(default=None, max_length=63)
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect if left out."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is borne."""


class LocalSecret(SpecModel):
    """A Secret of the same namespace, by name."""

    name: str = Field(min_length=1, max_length=253)
    """Name of the Secret."""


_OURS = frozenset(
    f"app.kubernetes.io/{name}" for name in ("component", "instance", "managed-by", "name")
)


class PodMetadata(SpecModel):
    """Labels and annotations of the pods, beside the operator's own."""

    labels: LabelMap = Field(default_factory=dict, max_length=64)
    """Further labels."""
    annotations: dict[str, Annotated[str, Field(max_length=262144)]] = Field(
        default_factory=dict, max_length=64
    )
    """Further annotations."""

    rules = (
        Rule(
            cel="!has(self.labels) || self.labels.all(key, !key.startsWith('sampler.dev/')"
            " && !(key in ['app.kubernetes.io/component', 'app.kubernetes.io/instance',"
            " 'app.kubernetes.io/managed-by', 'app.kubernetes.io/name']))",
            message="sampler.dev/… and app.kubernetes.io/component, instance, managed-by and name"
            " are the operator's; choose other names",
            holds=lambda metadata: (
                not any(key.startswith("sampler.dev/") or key in _OURS for key in metadata.labels)
            ),
            field="labels",
        ),
    )
