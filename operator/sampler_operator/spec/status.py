"""The status of a ``SamplerDeployment`` as its schema has it: what people and tools rely on."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from .base import SpecModel

__all__ = ["AdapterStatus", "BaseStatus", "Condition", "SamplerDeploymentStatus"]

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Digest = Annotated[str, Field(max_length=128)]


class Condition(SpecModel):
    """One claim about the fleet, in the shape of all Kubernetes conditions."""

    type: str = Field(max_length=316)
    """What is claimed: Accepted, Ready, UpToDate, Progressing, AdaptersReady, Reconciling,
    Stalled; VolumesShareable only where it does not hold."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(min_length=1, max_length=1024)
    """Why, in one word for programs."""
    message: str = Field(max_length=32768)
    """Why, and what to do, in words for people."""
    last_transition_time: Time
    """When ``status`` changed last."""
    observed_generation: int | None = Field(default=None, ge=0)
    """The generation of the spec that was looked at."""


class AdapterStatus(SpecModel):
    """Where a revision of a declared adapter is held."""

    name: str = Field(max_length=63)
    """Name of the adapter."""
    digest: Digest | None = None
    """Digest of the revision, once a replica has read it."""
    replicas: int = Field(ge=0)
    """Replicas that hold it."""
    message: str | None = Field(default=None, max_length=32768)
    """Why replicas do not hold it."""


class BaseStatus(SpecModel):
    """Which weights the replicas of one pod template serve."""

    template: str = Field(max_length=63)
    """Hash of the pod template."""
    digest: Digest
    """Content digest of the base model, as the first ready replica had it."""


class SamplerDeploymentStatus(SpecModel):
    """The fleet that is there."""

    observed_generation: int | None = Field(default=None, ge=0)
    """The generation of the spec that this status is about."""
    replicas: int | None = Field(default=None, ge=0)
    """Pods, ready or not."""
    ready_replicas: int | None = Field(default=None, ge=0)
    """Pods that serve."""
    updated_replicas: int | None = Field(default=None, ge=0)
    """Pods of the newest pod template."""
    selector: str | None = Field(default=None, max_length=1024)
    """Label selector of the pods, for autoscalers."""
    summary: str | None = Field(default=None, max_length=64)
    """Pods that serve, of those that are wanted: 2/3."""
    adapters_summary: str | None = Field(default=None, max_length=64)
    """Declared adapters that every replica holds, of all that are declared: 2/3."""
    engine: str | None = Field(default=None, max_length=64)
    """The engine."""
    image: str | None = Field(default=None, max_length=1024)
    """The container image."""
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=32, json_schema_extra={"x-kubernetes-list-map-keys": ["type"]}
    )
    """Claims about the fleet. 'UpToDate' is what to wait for after a change."""
    adapters: tuple[AdapterStatus, ...] = Field(default=(), max_length=1024)
    """Revisions of declared adapters."""
    bases: tuple[BaseStatus, ...] = Field(default=(), max_length=1024)
    """Base models that were recorded, by pod template."""
