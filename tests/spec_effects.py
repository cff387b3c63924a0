"""What a change of each field of the spec does: to the pods, and to the other children.

The table is complete: a field without a row fails a test. Users rely on it, since a change that
restarts pods in the middle of training costs much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from tests.spec_cases import DIGEST, GONE, VOLUME, Spec, adapter, changed, manifest

from sampler_operator.spec import SamplerDeploymentSpec, SpecModel
from sampler_operator.spec.parse import parse

__all__ = ["EFFECTS", "SECTIONS", "Effect", "SpecEffect", "leaves"]


class Effect(StrEnum):
    """What becomes of the pods."""

    ROLLS = "rolls pods"
    SCALES = "scales"
    STEERS = "changes how pods are rolled out, and restarts none"
    NONE = "leaves pods alone"


CONFIG_MAP: Final = "ConfigMap fleet-adapters"
SERVICE: Final = "Service fleet-replicas"
BUDGET: Final = "PodDisruptionBudget fleet"
MONITOR: Final = "PodMonitor fleet"
POLICY: Final = "NetworkPolicy fleet"


@dataclass(frozen=True, slots=True)
class SpecEffect:
    """A change of one field. ``base`` is the spec before, ``change`` is merged over it.
    ``children``: those beside the Deployment that are written or deleted."""

    path: str
    base: Spec
    change: Spec
    effect: Effect = Effect.ROLLS
    children: tuple[str, ...] = ()

    def __str__(self) -> str:
        children = f", and touches {', '.join(self.children)}" if self.children else ""
        return f"{self.path} {self.effect}{children}"

    @property
    def before(self) -> Spec:
        """The whole object, before the change."""
        return manifest(self.base)

    @property
    def after(self) -> Spec:
        """The whole object, after the change."""
        return manifest(changed(self.base, self.change))

    def changed_paths(self) -> set[str]:
        """The fields that differ."""
        before, after = (dict(_flat(parse(each).spec)) for each in (self.before, self.after))
        return {
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        }


def leaves(model: type[BaseModel] = SamplerDeploymentSpec, path: str = "") -> Iterator[str]:
    """The paths of all fields that are no objects of further fields."""
    for name, info in model.model_fields.items():
        where = f"{path}{info.alias or name}"
        found = _model_in(info.annotation)
        if found is None:
            yield where
        else:
            inner, is_list = found
            yield from leaves(inner, f"{where}[]." if is_list else f"{where}.")


def _model_in(annotation: Any) -> tuple[type[SpecModel], bool] | None:
    """The model that a field holds, and whether it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, SpecModel):
        return annotation, False
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found[0], get_origin(annotation) is tuple
    return None


def _flat(model: SpecModel, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, info in type(model).model_fields.items():
        value, where = getattr(model, name), f"{path}{info.alias or name}"
        if isinstance(value, SpecModel):
            yield from _flat(value, f"{where}.")
        elif isinstance(value, tuple) and any(isinstance(part, SpecModel) for part in value):
            columns: dict[str, list[Any]] = {}
            for part in value:
                for inner, leaf in _flat(part, f"{where}[]."):
                    columns.setdefault(inner, []).append(leaf)
            yield from columns.items()
        elif _model_in(info.annotation) is None or value not in (None, ()):
            yield where, value


HUB: Final[Spec] = {"uri": "hf://owner/model"}
TORCH: Final[Spec] = {"model": HUB, "engine": {"torch": {}}}
VLLM: Final[Spec] = {"model": HUB, "engine": {"vllm": {}}}
SIM: Final[Spec] = {"model": {"uri": "sim://model"}, "engine": {"sim": {}}}


def with_volume(source: Spec) -> Spec:
    """A fleet with a volume of adapters."""
    volume = {"name": "runs", "mountPath": "/adapters"} | source
    return changed(TORCH, {"lora": {"volumes": [volume]}})


def with_cache(source: Spec) -> Spec:
    """A fleet with a cache of models."""
    return changed(TORCH, {"model": {"cache": {"volume": source}}})


LORA: Final = changed(TORCH, {"lora": {"volumes": [VOLUME], "adapters": [adapter("one")]}})
MONITORED: Final = changed(TORCH, {"monitoring": {"podMonitor": {}}})
GUARDED: Final = changed(TORCH, {"networkPolicy": {"enabled": True}})
VARIABLE: Final = {"name": "A", "value": "1"}
TAINT: Final = {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"}


def _row(path: str, base: Spec, value: Any, *others: Any, **more: Any) -> SpecEffect:
    """A row whose change sets ``path``, which leads through no list."""
    change: Any = value
    for name in reversed(path.split(".")):
        change = {name: change}
    return SpecEffect(path, base, change, *others, **more)


def _cache_rows() -> Iterator[SpecEffect]:
    path = "model.cache.volume"
    for place, before, after in _SOURCES:
        source = place.partition(".")[0]
        yield SpecEffect(
            f"{path}.{place}",
            with_cache({source: before}),
            {"model": {"cache": {"volume": {source: after}}}},
        )


def _volume_rows() -> Iterator[SpecEffect]:
    path = "lora.volumes[]"
    for place, before, after in _SOURCES:
        source = place.partition(".")[0]
        yield SpecEffect(
            f"{path}.{place}",
            with_volume({source: before}),
            {"lora": with_volume({source: after})["lora"]},
        )
    claim = {"persistentVolumeClaim": {"claimName": "a"}}
    for name, value in (
        ("name", "other"),
        ("mountPath", "/other"),
        ("subPath", "team"),
        ("readOnly", False),
    ):
        yield SpecEffect(
            f"{path}.{name}",
            with_volume(claim),
            {"lora": with_volume(claim | {name: value})["lora"]},
        )


_SOURCES: Final[tuple[tuple[str, Spec, Spec], ...]] = (
    ("persistentVolumeClaim.claimName", {"claimName": "a"}, {"claimName": "b"}),
    ("nfs.server", {"server": "a", "path": "/"}, {"server": "b", "path": "/"}),
    ("nfs.path", {"server": "a", "path": "/"}, {"server": "a", "path": "/b"}),
    ("csi", {"driver": "a.example"}, {"driver": "b.example"}),
    ("hostPath.path", {"path": "/a"}, {"path": "/b"}),
    ("hostPath.type", {"path": "/a"}, {"path": "/a", "type": "Directory"}),
    ("emptyDir.medium", {}, {"medium": "Memory"}),
    ("emptyDir.sizeLimit", {"sizeLimit": "1Gi"}, {"sizeLimit": "2Gi"}),
)


def _adapter_row(name: str, value: str) -> SpecEffect:
    made = adapter("one") | {name: value}
    return SpecEffect(
        f"lora.adapters[].{name}", LORA, {"lora": {"adapters": [made]}}, Effect.NONE, (CONFIG_MAP,)
    )


def _taint_row(name: str, value: Any) -> SpecEffect:
    base = changed(TORCH, {"tolerations": [TAINT]})
    made = (
        {**TAINT, name: value} if value is not GONE else {k: TAINT[k] for k in TAINT if k != name}
    )
    return SpecEffect(f"tolerations[].{name}", base, {"tolerations": [made]})


EFFECTS: Final[tuple[SpecEffect, ...]] = (
    # The model
    _row("model.uri", TORCH, "hf://owner/other"),
    _row("model.revision", TORCH, "v1"),
    _row("model.digest", TORCH, DIGEST),
    _row("model.name", TORCH, "policy"),
    _row("model.trustRemoteCode", TORCH, True),
    _row(
        "model.tokenSecretRef.name",
        changed(TORCH, {"model": {"tokenSecretRef": {"name": "a"}}}),
        "b",
    ),
    _row(
        "model.tokenSecretRef.key",
        changed(TORCH, {"model": {"tokenSecretRef": {"name": "a"}}}),
        "b",
    ),
    *_cache_rows(),
    # The engine
    _row("engine.vllm.maxModelLen", VLLM, 1024),
    _row("engine.vllm.maxNumSeqs", VLLM, 8),
    _row("engine.vllm.extraArgs", VLLM, ["--enforce-eager"]),
    _row("engine.vllm.dtype", VLLM, "float16"),
    _row("engine.vllm.gpuMemoryUtilization", VLLM, 0.5),
    _row("engine.vllm.maxNumBatchedTokens", VLLM, 4096),
    _row("engine.vllm.enablePrefixCaching", VLLM, False),
    _row("engine.vllm.quantization", VLLM, "fp8"),
    _row("engine.torch.maxModelLen", TORCH, 1024),
    _row("engine.torch.maxNumSeqs", TORCH, 8),
    _row("engine.torch.extraArgs", TORCH, ["--log-level", "debug"]),
    _row("engine.torch.dtype", TORCH, "float16"),
    _row("engine.torch.maxKvTokens", TORCH, 4096),
    _row("engine.torch.threads", TORCH, 2),
    _row("engine.torch.batchInvariant", TORCH, True),
    _row("engine.sim.maxModelLen", SIM, 1024),
    _row("engine.sim.maxNumSeqs", SIM, 8),
    _row("engine.sim.extraArgs", SIM, ["--log-level", "debug"]),
    _row("engine.sim.maxKvTokens", SIM, 4096),
    _row("engine.sim.prefillRate", SIM, 1000),
    _row("engine.sim.decodeRate", SIM, 50),
    _row("engine.sim.perSequenceSeconds", SIM, 0.5),
    _row("engine.sim.jitter", SIM, 0.5),
    _row("engine.sim.slowFactor", SIM, 2),
    _row("engine.sim.eosRate", SIM, 0.5),
    _row("engine.logprobsMode", VLLM, "raw"),
    _row("engine.stallSeconds", TORCH, 20),
    _row("engine.orphanSeconds", TORCH, 5),
    # Size
    _row("replicas", TORCH, 3, Effect.SCALES),
    _row("tensorParallelSize", VLLM, 2),
    _row("enginesPerGPU", TORCH, 2, children=(SERVICE,)),
    # Adapters
    _row("lora.maxRank", LORA, 64),
    _row("lora.maxAdapters", LORA, 16),
    _row("lora.publish", LORA, False, Effect.NONE),
    _row("lora.storeSizeLimit", LORA, "1Gi"),
    *_volume_rows(),
    _adapter_row("name", "two"),
    _adapter_row("path", "/adapters/two"),
    _adapter_row("digest", DIGEST),
    # Pods
    _row("resources.requests", TORCH, {"cpu": 2}),
    _row("resources.limits", TORCH, {"memory": "8Gi"}),
    _row("gpu.count", TORCH, 0),
    _row("gpu.resourceName", TORCH, "example.com/gpu"),
    _row("shmSize", TORCH, "2Gi"),
    _row("startupTimeoutSeconds", TORCH, 600),
    _row("minReadySeconds", TORCH, 5, Effect.STEERS),
    _row("image", TORCH, "registry.example/sampler:2"),
    _row("imagePullPolicy", TORCH, "Always"),
    SpecEffect("imagePullSecrets[].name", TORCH, {"imagePullSecrets": [{"name": "registry"}]}),
    _row("nodeSelector", TORCH, {"pool": "a"}),
    _taint_row("key", "c"),
    _taint_row("operator", GONE),
    _taint_row("value", "c"),
    _taint_row("effect", GONE),
    _taint_row("tolerationSeconds", 60),
    _row("affinity", TORCH, {"nodeAffinity": {}}),
    _row(
        "topologySpreadConstraints",
        TORCH,
        [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    ),
    _row("priorityClassName", TORCH, "high"),
    _row("runtimeClassName", TORCH, "nvidia"),
    _row("schedulerName", TORCH, "volcano"),
    SpecEffect(
        "env[].name",
        changed(TORCH, {"env": [VARIABLE]}),
        {"env": [VARIABLE | {"name": "B"}]},
    ),
    SpecEffect(
        "env[].value",
        changed(TORCH, {"env": [VARIABLE]}),
        {"env": [VARIABLE | {"value": "2"}]},
    ),
    SpecEffect(
        "env[].valueFrom",
        changed(TORCH, {"env": [{"name": "A"}]}),
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
    ),
    _row("envFrom", TORCH, [{"configMapRef": {"name": "more"}}]),
    _row("podMetadata.labels", TORCH, {"team": "a"}),
    _row("podMetadata.annotations", TORCH, {"note": "a"}),
    _row("serviceAccountName", TORCH, "sampler"),
    _row("podSecurityContext", TORCH, {"runAsUser": 3000}),
    _row("podTemplateOverrides.metadata", TORCH, {"labels": {"cost-centre": "7"}}),
    _row("podTemplateOverrides.spec", TORCH, {"dnsPolicy": "Default"}),
    # Rollout
    _row("rollout.strategy", TORCH, "Recreate", Effect.STEERS),
    _row("rollout.maxSurge", TORCH, "25%", Effect.STEERS),
    _row("rollout.maxUnavailable", TORCH, "50%", Effect.STEERS),
    _row("rollout.drainSeconds", TORCH, 60),
    _row("rollout.progressDeadlineSeconds", TORCH, 600, Effect.STEERS),
    _row("paused", TORCH, True, Effect.STEERS),
    # What stands beside the pods
    _row(
        "auth.tokenSecretRef.name", changed(TORCH, {"auth": {"tokenSecretRef": {"name": "a"}}}), "b"
    ),
    _row(
        "auth.tokenSecretRef.key", changed(TORCH, {"auth": {"tokenSecretRef": {"name": "a"}}}), "b"
    ),
    _row("tls.secretName", changed(TORCH, {"tls": {"secretName": "a"}}), "b"),
    _row("disruptionBudget.enabled", TORCH, False, Effect.NONE, (BUDGET,)),
    _row("disruptionBudget.maxUnavailable", TORCH, "10%", Effect.NONE, (BUDGET,)),
    _row("monitoring.podMonitor.labels", MONITORED, {"release": "a"}, Effect.NONE, (MONITOR,)),
    _row("monitoring.podMonitor.interval", MONITORED, "30s", Effect.NONE, (MONITOR,)),
    _row("networkPolicy.enabled", TORCH, True, Effect.NONE, (POLICY,)),
    _row("networkPolicy.from", GUARDED, [{"podSelector": {}}], Effect.NONE, (POLICY,)),
    _row("networkPolicy.monitoringNamespaces", GUARDED, ["monitoring"], Effect.NONE, (POLICY,)),
)
"""One row for each field at least."""

SECTIONS: Final[tuple[SpecEffect, ...]] = (
    SpecEffect("lora", TORCH, {"lora": {}}),
    SpecEffect("lora", LORA, {"lora": GONE}, children=(CONFIG_MAP,)),
    SpecEffect("lora.adapters", LORA, {"lora": {"adapters": []}}, Effect.NONE, (CONFIG_MAP,)),
    SpecEffect("engine", TORCH, {"engine": {"torch": GONE, "vllm": {}}}),
    SpecEffect("auth", TORCH, {"auth": {"tokenSecretRef": {"name": "a"}}}),
    SpecEffect("tls", TORCH, {"tls": {"secretName": "a"}}, children=(SERVICE,)),
    SpecEffect("monitoring", TORCH, {"monitoring": {"podMonitor": {}}}, Effect.NONE, (MONITOR,)),
    SpecEffect("monitoring", MONITORED, {"monitoring": GONE}, Effect.NONE, (MONITOR,)),
    SpecEffect("networkPolicy", GUARDED, {"networkPolicy": GONE}, Effect.NONE, (POLICY,)),
    SpecEffect("enginesPerGPU", GUARDED, {"enginesPerGPU": 2}, children=(SERVICE, POLICY)),
    SpecEffect("replicas", TORCH, {"replicas": 0}, Effect.SCALES),
    SpecEffect("paused", changed(TORCH, {"paused": True}), {"paused": False}, Effect.STEERS),
    SpecEffect(
        "rollout",
        changed(TORCH, {"rollout": {"strategy": "Recreate"}}),
        {"rollout": GONE},
        Effect.STEERS,
    ),
    SpecEffect("podTemplateOverrides", TORCH, {"podTemplateOverrides": {}}, Effect.NONE),
)
"""Whole sections that come and go."""
