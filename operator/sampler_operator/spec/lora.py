"""LoRA adapters of a fleet: limits, volumes, and adapters that every replica holds."""

from itertools import pairwise

from pydantic import Field

from .base import Quantity, Rule, SpecModel, clean_path, has_unique_names
from .volumes import LoraVolume

__all__ = ["AdapterSpec", "LoraSpec"]


class AdapterSpec(SpecModel):
    """An adapter that every replica loads."""

    name: str = Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$", max_length=63)
    """Name by which requests may ask for it, unique in the list."""
    path: str = Field(pattern="^/", max_length=512)
    """Directory with adapter_config.json and adapter_model.safetensors, below a volume."""
    digest: str | None = Field(default=None, pattern="^sha256:[0-9a-f]{64}$", max_length=71)
    """Digest that the adapter must have; if left out, what is found when a replica loads it."""

    rules = (clean_path("path"),)


def _are_disjoint(volumes: tuple[LoraVolume, ...]) -> bool:
    paths = sorted(volume.mount_path + "/" for volume in volumes)
    return not any(b.startswith(a) for a, b in pairwise(paths))


class LoraSpec(SpecModel):
    """LoRA adapters."""

    max_rank: int = Field(default=16, ge=1, le=1024)
    """Largest rank that is served."""
    max_adapters: int = Field(default=8, ge=1, le=1024)
    """Revisions that one engine holds at once."""
    publish: bool = True
    """Whether jobs publish adapters of their own; then one slot more than the declared adapters
    is needed."""
    volumes: tuple[LoraVolume, ...] = Field(
        default=(), max_length=16, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}
    )
    """Volumes with adapters."""
    adapters: tuple[AdapterSpec, ...] = Field(
        default=(), max_length=128, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}
    )
    """Adapters that every replica holds; changing them restarts nothing."""
    store_size_limit: Quantity = "20Gi"
    """Most that copies of adapters may take of the node's disk, per pod."""

    rules = (
        Rule(
            cel="!has(self.adapters) || size(self.adapters) + (self.publish ? 1 : 0)"
            " <= self.maxAdapters",
            message="there must be fewer than maxAdapters, so that a job can publish; raise"
            " maxAdapters or set publish: false",
            holds=lambda lora: len(lora.adapters) + (1 if lora.publish else 0) <= lora.max_adapters,
            field="adapters",
        ),
        Rule(
            cel="!has(self.volumes) || self.volumes.all(v, self.volumes.all(w, v.name == w.name"
            " || !(w.mountPath + '/').startsWith(v.mountPath + '/')))",
            message="mount paths must not lie inside each other",
            holds=lambda lora: _are_disjoint(lora.volumes),
            field="volumes",
        ),
        Rule(
            cel="!has(self.adapters) || self.adapters.all(a, has(self.volumes)"
            " && self.volumes.exists(v, a.path.startsWith(v.mountPath + '/')))",
            message="each path must lie below the mountPath of one of the volumes",
            holds=lambda lora: all(
                any(adapter.path.startswith(v.mount_path + "/") for v in lora.volumes)
                for adapter in lora.adapters
            ),
            field="adapters",
        ),
        Rule(
            cel=None,
            message="names must be unique",
            holds=lambda lora: has_unique_names(lora.volumes),
            field="volumes",
        ),
        Rule(
            cel=None,
            message="names must be unique",
            holds=lambda lora: has_unique_names(lora.adapters),
            field="adapters",
        ),
    )
