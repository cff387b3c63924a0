"""Where files come from: volumes of a pod, and references to Secrets."""

from typing import ClassVar, Final

from pydantic import Field

from .. import names
from .base import JsonObject, Quantity, Rule, SpecModel, clean_path

__all__ = ["LoraVolume", "SecretKeyRef", "VolumeSource"]


class SecretKeyRef(SpecModel):
    """A key of a Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253)
    """Name of the Secret."""
    key: str = Field(default="token", min_length=1, max_length=253)
    """Key whose value is used."""


class ClaimSource(SpecModel):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: str = Field(min_length=1, max_length=253)
    """Name of the claim."""


class NfsSource(SpecModel):
    """A directory of an NFS server, mounted without a claim. Not under restricted Pod Security."""

    server: str = Field(min_length=1, max_length=253)
    """Host name or address of the server."""
    path: str = Field(pattern="^/", max_length=512)
    """Exported directory."""


class HostPathSource(SpecModel):
    """A directory of the node. Not under restricted Pod Security."""

    path: str = Field(pattern="^/", max_length=512)
    """Directory on the node."""
    type: str | None = Field(default=None, max_length=32)
    """What must be there before the mount, as in a pod's hostPath volume."""


class EmptyDirSource(SpecModel):
    """A directory that lives as long as the pod."""

    medium: str | None = Field(default=None, pattern="^(|Memory|HugePages.*)$", max_length=64)
    """``Memory`` keeps it in memory."""
    size_limit: Quantity | None = None
    """Most that may be written."""


_SOURCES = ("persistentVolumeClaim", "nfs", "csi", "hostPath", "emptyDir")

_ONE_SOURCE = Rule(
    cel="[" + ", ".join(f"has(self.{name})" for name in _SOURCES) + "].filter(x, x).size() == 1",
    message="exactly one of persistentVolumeClaim, nfs, csi, hostPath and emptyDir must be given",
    holds=lambda volume: (
        sum(
            source is not None
            for source in (
                volume.persistent_volume_claim,
                volume.nfs,
                volume.csi,
                volume.host_path,
                volume.empty_dir,
            )
        )
        == 1
    ),
)


class VolumeSource(SpecModel):
    """Exactly one source of a volume."""

    persistent_volume_claim: ClaimSource | None = None
    """A claim; ReadWriteMany where several nodes run replicas."""
    nfs: NfsSource | None = None
    """An NFS export. Not under restricted Pod Security: use a claim there."""
    csi: JsonObject | None = None
    """An inline CSI volume, as in a pod."""
    host_path: HostPathSource | None = None
    """A directory of the node. Not under restricted Pod Security: use a claim there."""
    empty_dir: EmptyDirSource | None = None
    """An empty directory per pod."""

    rules: ClassVar[tuple[Rule, ...]] = (_ONE_SOURCE,)


_OWN: Final = (
    "/dev/shm",
    "/tmp",
    names.ADAPTERS_DIR,
    names.CACHE_DIR,
    names.HOME_DIR,
    names.LINK_DIR,
    names.MODEL_DIR,
    names.RUNTIME_CACHE_DIR,
    names.STORE_DIR,
    names.TLS_DIR,
    names.TOKEN_DIR,
)
"""Where pods mount something, with some specs at least: no volume can be there too."""


class LoraVolume(VolumeSource):
    """A volume with adapters; requests may name directories below its mount path."""

    name: str = Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)
    """Name of the volume, unique in the list."""
    mount_path: str = Field(pattern="^/[^:]*[^:/]$", max_length=256)
    """Where it is mounted; absolute, and not inside another volume's mount path."""
    sub_path: str | None = Field(default=None, max_length=512)
    """Directory of the volume that is mounted instead of its root."""
    read_only: bool = True
    """Servers only read adapters, so this is rarely false."""

    rules = (
        *VolumeSource.rules,
        clean_path("mountPath"),
        Rule(
            cel=f"!(self.mountPath in {list(_OWN)})",
            message="the server has a directory of its own there; choose another path",
            holds=lambda volume: volume.mount_path not in _OWN,
            field="mountPath",
        ),
    )
