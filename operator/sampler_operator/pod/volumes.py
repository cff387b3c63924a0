"""Volumes of a pod and where they are mounted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .. import names
from ..objects import Manifest, key_of
from ..spec import SamplerDeployment
from ..spec.volumes import VolumeSource

__all__ = ["Mount", "mounts", "of_one_mode", "volumes"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume with its place in the server's container; ``fetch_writes``: the download writes to
    it, the server only reads."""

    name: str
    source: Manifest
    path: str
    read_only: bool = False
    sub_path: str | None = None
    fetch_writes: bool = False

    def mounted(self, read_only: bool | None = None) -> Manifest:
        """The entry of ``volumeMounts``."""
        entry: Manifest = {"name": self.name, "mountPath": self.path}
        if self.read_only if read_only is None else read_only:
            entry["readOnly"] = True
        if self.sub_path is not None:
            entry["subPath"] = self.sub_path
        return entry


def _empty(size_limit: Any = None, medium: str | None = None) -> Manifest:
    source: Manifest = {}
    if medium is not None:
        source["medium"] = medium
    if size_limit is not None:
        source["sizeLimit"] = str(size_limit)
    return {"emptyDir": source}


def _source(volume: VolumeSource, read_only: bool) -> Manifest:
    """The volume source as a pod has it."""
    given = volume.model_dump(by_alias=True, exclude_none=True, mode="json")
    source: Manifest = {
        kind: given[kind]
        for kind in ("persistentVolumeClaim", "nfs", "csi", "hostPath", "emptyDir")
        if kind in given
    }
    if read_only and "persistentVolumeClaim" in source:
        source["persistentVolumeClaim"] = {**source["persistentVolumeClaim"], "readOnly": True}
    return source


def mounts(sd: SamplerDeployment) -> list[Mount]:
    """All volumes of the server's container, in a fixed order."""
    spec = sd.spec
    found = [
        Mount("tmp", _empty(), "/tmp"),
        Mount("home", _empty(), names.HOME_DIR),
        Mount("cache", _empty(), names.RUNTIME_CACHE_DIR),
        Mount("shm", _empty(spec.shm_size, "Memory"), "/dev/shm"),
        Mount(
            "adapters-config",
            {"configMap": {"name": names.adapters_name(key_of(sd))}},
            names.ADAPTERS_DIR,
            read_only=True,
        ),
    ]
    found += _model_mounts(sd)
    if spec.lora is not None:
        found.append(Mount("adapters-store", _empty(spec.lora.store_size_limit), names.STORE_DIR))
        found += [
            Mount(
                f"lora-{volume.name}",
                _source(volume, volume.read_only),
                volume.mount_path,
                volume.read_only,
                volume.sub_path,
            )
            for volume in spec.lora.volumes
        ]
    if spec.auth is not None:
        ref = spec.auth.token_secret_ref
        secret = {"secretName": ref.name, "items": [{"key": ref.key, "path": "tokens"}]}
        found.append(Mount("tokens", {"secret": secret}, names.TOKEN_DIR, read_only=True))
    if spec.tls is not None:
        secret = {"secretName": spec.tls.secret_name}
        found.append(Mount("tls", {"secret": secret}, names.TLS_DIR, read_only=True))
    return found


def _model_mounts(sd: SamplerDeployment) -> list[Mount]:
    model = sd.spec.model
    if sd.spec.engine.kind == "sim":
        return []
    if model.scheme == "pvc":
        claim = model.location.partition("/")[0]
        source = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        return [Mount("model", source, names.MODEL_DIR, read_only=True)]
    if model.scheme == "hf":
        cache = _source(model.cache.volume, read_only=False)
        return [
            Mount("model-cache", cache, names.CACHE_DIR, read_only=True, fetch_writes=True),
            Mount("model-link", _empty(), names.LINK_DIR, read_only=True, fetch_writes=True),
        ]
    return []


def volumes(found: list[Mount]) -> list[Manifest]:
    """The pod's ``volumes``."""
    return [{"name": mount.name, **mount.source} for mount in found]


def of_one_mode(there: Sequence[Manifest], ours: Collection[str]) -> list[Manifest]:
    """A pod's ``volumes``, where no claim is both read-only and not.

    A kubelet mounts a claim once for a pod, in the mode of whichever volume it comes to first. So
    one of ``ours`` leaves it to its mounts, which say read-only themselves, where another volume
    writes to the same claim.
    """
    written = {_claim(volume) for volume in there if not _is_read_only(volume)}
    return [
        {**volume, "persistentVolumeClaim": {"claimName": _claim(volume)}}
        if volume.get("name") in ours and _is_read_only(volume) and _claim(volume) in written
        else volume
        for volume in there
    ]


def _claim(volume: Manifest) -> str | None:
    found: str | None = (volume.get("persistentVolumeClaim") or {}).get("claimName")
    return found


def _is_read_only(volume: Manifest) -> bool:
    return bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))
