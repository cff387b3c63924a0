"""What of a spec does nothing on one machine, by name: nothing is dropped in silence. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..objects import Manifest

__all__ = ["IDLE", "idle_fields", "used_of_pod"]

IDLE: Final = (
    "affinity",
    "disruptionBudget",
    "gpu.resourceName",
    "image",
    "imagePullPolicy",
    "imagePullSecrets",
    "lora.volumes[].csi",
    "lora.volumes[].emptyDir.medium",
    "lora.volumes[].emptyDir.sizeLimit",
    "lora.volumes[].nfs",
    "lora.volumes[].readOnly",
    "model.cache.volume.csi",
    "model.cache.volume.emptyDir.medium",
    "model.cache.volume.emptyDir.sizeLimit",
    "model.cache.volume.nfs",
    "monitoring",
    "networkPolicy",
    "nodeSelector",
    "podMetadata",
    "podSecurityContext",
    "priorityClassName",
    "resources",
    "runtimeClassName",
    "schedulerName",
    "serviceAccountName",
    "shmSize",
    "tolerations",
    "topologySpreadConstraints",
)
"""Fields of the spec; ``[]`` stands for each entry of a list."""

_OVERRIDES: Final = "podTemplateOverrides"
_DIRECTIVE: Final = "$patch"
_DEFAULT_DEVICE: Final = "nvidia.com/gpu"

_PROBE: Final = {
    "httpGet": {"path": None, "port": None},
    "failureThreshold": None,
    "initialDelaySeconds": None,
    "periodSeconds": None,
    "successThreshold": None,
    "timeoutSeconds": None,
}
_VOLUME: Final = {
    "name": None,
    "configMap": {"name": None},
    "emptyDir": {},
    "hostPath": {"path": None, "type": None},
    "persistentVolumeClaim": {"claimName": None},
    "secret": {"secretName": None, "items": None},
}

Tree = Mapping[str, Any] | tuple[Any] | None
"""What of a value is used: all of it (None), some of its fields, or the same of each entry."""


def used_of_pod(device: str) -> Tree:
    """What of a pod's spec is used; ``device`` is the resource that stands for a GPU."""
    container = {
        "name": None,
        "args": None,
        "command": None,
        "env": None,
        "envFrom": None,
        "livenessProbe": _PROBE,
        "ports": ({"name": None, "containerPort": None},),
        "readinessProbe": _PROBE,
        "resources": {"limits": {device: None}},
        "startupProbe": _PROBE,
        "volumeMounts": ({"name": None, "mountPath": None, "subPath": None},),
    }
    return {
        "containers": (container,),
        "initContainers": (container,),
        "terminationGracePeriodSeconds": None,
        "volumes": (_VOLUME,),
    }


def idle_fields(manifest: Manifest) -> tuple[str, ...]:
    """Fields of the spec that mean nothing on one machine, of those that are given."""
    spec = manifest["spec"]
    found = [where for path in IDLE for where in _given(spec, path.split("."), "")]
    overrides = spec.get(_OVERRIDES) or {}
    if overrides.get("metadata"):
        found.append(f"{_OVERRIDES}.metadata")
    device = (spec.get("gpu") or {}).get("resourceName") or _DEFAULT_DEVICE
    found += _unused(overrides.get("spec"), used_of_pod(device), f"{_OVERRIDES}.spec")
    return tuple(found)


def _given(part: Any, path: list[str], where: str) -> Iterator[str]:
    if not path:
        yield where.removeprefix(".")
        return
    name, is_list = path[0].removesuffix("[]"), path[0].endswith("[]")
    value = part.get(name) if isinstance(part, Mapping) else None
    if is_list:
        for index, entry in enumerate(value or ()):
            yield from _given(entry, path[1:], f"{where}.{name}[{index}]")
    elif value is not None:
        yield from _given(value, path[1:], f"{where}.{name}")


def _unused(part: Any, used: Tree, where: str) -> Iterator[str]:
    if isinstance(used, tuple) and isinstance(part, list):
        for index, entry in enumerate(part):
            name = entry.get("name", index) if isinstance(entry, Mapping) else index
            yield from _unused(entry, used[0], f"{where}[{name}]")
    elif isinstance(used, Mapping) and isinstance(part, Mapping):
        for name, value in part.items():
            if name in used:
                yield from _unused(value, used[name], f"{where}.{name}")
            elif name != _DIRECTIVE:
                yield f"{where}.{name}"
