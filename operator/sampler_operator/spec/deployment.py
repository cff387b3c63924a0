"""``SamplerDeployment``: the whole custom resource."""

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..quantities import as_number
from .base import JsonObject, Quantity, Rule, SpecModel, has_unique_names
from .engine import EngineSpec
from .lora import LoraSpec
from .model import ModelSpec
from .rollout import (
    AuthSpec,
    DisruptionBudgetSpec,
    MonitoringSpec,
    NetworkPolicySpec,
    RolloutSpec,
    TlsSpec,
)
from .scheduling import EnvVar, GpuSpec, LocalSecret, PodMetadata, Toleration

__all__ = ["OBJECT_RULES", "ResourcesSpec", "SamplerDeployment", "SamplerDeploymentSpec"]

_GRACE_SECONDS: Final = 15

Resources = dict[str, Quantity]


class ResourcesSpec(SpecModel):
    """CPU, memory and the like of a pod's container; devices are counted in ``gpu``."""

    requests: Resources = Field(default_factory=dict, max_length=32)
    """What is set aside."""
    limits: Resources = Field(default_factory=dict, max_length=32)
    """What is the most."""


class PodTemplateOverrides(SpecModel):
    """Parts of a pod template that are merged over the operator's."""

    metadata: JsonObject | None = None
    """Labels, annotations and the like."""
    spec: JsonObject | None = None
    """Parts of a pod's spec."""

    def as_patch(self) -> dict[str, Any]:
        """What is given, as a patch of the template."""
        parts = {"metadata": self.metadata, "spec": self.spec}
        return {name: part for name, part in parts.items() if part is not None}


class SamplerDeploymentSpec(SpecModel):
    """The fleet that is wanted."""

    model: ModelSpec
    """The base model."""
    engine: EngineSpec
    """What generates."""
    replicas: int = Field(default=1, ge=0, le=10000)
    """Pods. Leave it out where an autoscaler sets it."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    """GPUs, or with ``gpu.count: 0`` processes, that hold one copy of the model together.
    ``engine.sim`` has no copy."""
    engines_per_gpu: int = Field(default=1, alias="enginesPerGPU", ge=1, le=16)
    """Engine processes that share a pod's GPU; small models are faster with several."""
    lora: LoraSpec | None = None
    """LoRA adapters; without it no adapter is served."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    """CPU and memory of a pod."""
    gpu: GpuSpec = Field(default_factory=GpuSpec)
    """Devices of a pod."""
    shm_size: Quantity = "1Gi"
    """Size of /dev/shm; it counts against the memory limit."""
    startup_timeout_seconds: int = Field(default=3600, ge=10, le=604800)
    """A pod that has not loaded its model by then starts again."""
    min_ready_seconds: int = Field(default=0, ge=0, le=86400)
    """A new pod must be ready for so long before it counts as available."""
    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Container image; by default the operator's image of the engine."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; Kubernetes' own rule if left out."""
    image_pull_secrets: tuple[LocalSecret, ...] = Field(default=(), max_length=16)
    """Secrets for the image registry."""
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=64
    )
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=64)
    """Taints of nodes that pods accept."""
    affinity: JsonObject | None = None
    """Affinity of the pods, as in a pod."""
    topology_spread_constraints: tuple[JsonObject, ...] = Field(default=(), max_length=16)
    """How pods spread, as in a pod; without a labelSelector the fleet's own is used."""
    priority_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """PriorityClass of the pods."""
    runtime_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """RuntimeClass of the pods."""
    scheduler_name: str | None = Field(default=None, min_length=1, max_length=253)
    """Scheduler that places the pods."""
    env: tuple[EnvVar, ...] = Field(
        default=(), max_length=128, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}
    )
    """Further environment variables of the server."""
    env_from: tuple[JsonObject, ...] = Field(default=(), max_length=32)
    """Sources of environment variables, as in a container."""
    pod_metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Labels and annotations of the pods."""
    service_account_name: str | None = Field(default=None, min_length=1, max_length=253)
    """ServiceAccount of the pods; its token is not mounted."""
    pod_security_context: JsonObject | None = None
    """Merged over the pods' security context; a null takes a default away (OpenShift:
    ``runAsUser: null, fsGroup: null``). Only ``kubectl apply --server-side``, create and replace
    keep nulls."""
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    """How pods are replaced."""
    paused: bool = False
    """No change of the pod template is rolled out meanwhile; scaling and status go on."""
    auth: AuthSpec | None = None
    """Bearer tokens; without it everybody who reaches the data port may sample."""
    tls: TlsSpec | None = None
    """TLS of the data port."""
    disruption_budget: DisruptionBudgetSpec = Field(default_factory=DisruptionBudgetSpec)
    """Protection from evictions."""
    monitoring: MonitoringSpec = Field(default_factory=MonitoringSpec)
    """How the fleet is watched."""
    network_policy: NetworkPolicySpec = Field(default_factory=NetworkPolicySpec)
    """Who may reach the pods."""
    pod_template_overrides: PodTemplateOverrides | None = None
    """Merged last over the pod template: lists by Kubernetes' merge keys (containers, volumes and
    env by name, volumeMounts by mountPath), null deletes (and needs
    ``kubectl apply --server-side``). Labels of the selector stay."""

    rules = (
        Rule(
            cel="!has(self.gpu) || !has(self.gpu.count) || self.gpu.count == 0"
            " || self.gpu.count == self.tensorParallelSize",
            message="must be 0 (run on CPUs) or equal tensorParallelSize; leave it out",
            holds=lambda spec: spec.gpu.count in (None, 0, spec.tensor_parallel_size),
            field="gpu.count",
        ),
        Rule(
            cel="self.tensorParallelSize == 1 || self.enginesPerGPU == 1",
            message="several engines share one GPU, so tensorParallelSize must be 1",
            holds=lambda spec: spec.tensor_parallel_size == 1 or spec.engines_per_gpu == 1,
            field="enginesPerGPU",
        ),
        Rule(
            cel="!has(self.resources) || !((has(self.resources.limits) && self.gpu.resourceName in"
            " self.resources.limits) || (has(self.resources.requests) && self.gpu.resourceName in"
            " self.resources.requests))",
            message="devices are counted in gpu.count; remove the GPU resource here",
            holds=lambda spec: (
                spec.gpu.resource_name not in {*spec.resources.limits, *spec.resources.requests}
            ),
            field="resources",
        ),
        Rule(
            cel="!has(self.resources) || !has(self.resources.limits)"
            " || !('memory' in self.resources.limits)"
            " || quantity(string(self.shmSize)).isLessThan("
            "quantity(string(self.resources.limits['memory'])))",
            message="/dev/shm counts against resources.limits.memory, so it must be smaller",
            holds=lambda spec: (
                "memory" not in spec.resources.limits
                or as_number(spec.shm_size) < as_number(spec.resources.limits["memory"])
            ),
            field="shmSize",
        ),
        Rule(
            cel="!self.model.uri.startsWith('sim://') || has(self.engine.sim)",
            message="sim:// has no weights; only engine.sim serves it",
            holds=lambda spec: spec.model.scheme != "sim" or spec.engine.kind == "sim",
            field="model.uri",
        ),
        Rule(
            cel="self.minReadySeconds < (has(self.rollout) &&"
            " has(self.rollout.progressDeadlineSeconds) ? self.rollout.progressDeadlineSeconds"
            " : self.startupTimeoutSeconds + 300)",
            message="must be less than rollout.progressDeadlineSeconds (by default"
            " startupTimeoutSeconds + 300)",
            holds=lambda spec: spec.min_ready_seconds < spec.progress_deadline_seconds,
            field="minReadySeconds",
        ),
        Rule(
            cel=None,
            message="names must be unique",
            holds=lambda spec: has_unique_names(spec.env),
            field="env",
        ),
    )

    @property
    def gpu_count(self) -> int:
        """Devices per pod."""
        if self.gpu.count is not None:
            return self.gpu.count
        return 0 if self.engine.kind == "sim" else self.tensor_parallel_size

    @property
    def termination_grace_seconds(self) -> int:
        """What a pod has to end: its drain, and what comes after."""
        return self.rollout.drain_seconds + _GRACE_SECONDS

    @property
    def progress_deadline_seconds(self) -> int:
        """A rollout without progress for so long has failed."""
        return self.rollout.progress_deadline_seconds or self.startup_timeout_seconds + 300


_NAME: Final = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"


class Metadata(BaseModel):
    """The part of an object's metadata that decisions need."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = Field(default=None, alias="deletionTimestamp")


OBJECT_RULES: Final = (
    Rule(
        cel=f"self.metadata.name.matches('{_NAME}')",
        message="must have at most 40 characters, a letter first, then letters, digits and"
        " dashes, all lower case: it begins the names of Services",
        holds=lambda sd: re.fullmatch(_NAME[1:-1], sd.metadata.name) is not None,
        field="metadata.name",
    ),
    Rule(
        # Two fleets that claim one Service would take it from each other for ever.
        cel="!self.metadata.name.endsWith('-replicas')",
        message="must not end in -replicas: so does the headless Service of another fleet",
        holds=lambda sd: not sd.metadata.name.endswith("-replicas"),
        field="metadata.name",
    ),
)


class SamplerDeployment(SpecModel):
    """A fleet of sampler servers."""

    model_config = ConfigDict(extra="ignore")

    api_version: str = "sampler.dev/v1alpha1"
    kind: str = "SamplerDeployment"
    metadata: Metadata
    spec: SamplerDeploymentSpec
    status: dict[str, Any] = Field(default_factory=dict)

    rules: ClassVar[tuple[Rule, ...]] = OBJECT_RULES
