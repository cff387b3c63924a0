"""What an adapter is: immutable bytes under one digest, whatever they were read from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sampler_api.errors import AdapterInvalid
from sampler_api.names import SHA256_PREFIX

from .adapter_config import CONFIG_FILE, canonical_config, encode_config, stored_config
from .adapter_tensors import lora_modules, non_finite
from .safetensors_file import Tensor, encode_safetensors

__all__ = ["TENSORS_FILE", "AdapterSnapshot", "adapter_digest", "make_snapshot"]

TENSORS_FILE: Final = "adapter_model.safetensors"
_DOMAIN: Final = b"sampler-adapter-1\0"


@dataclass(frozen=True, slots=True, eq=False)
class AdapterSnapshot:
    """One revision of an adapter, taken at one moment; later writes to its source do not reach it.

    ``config`` holds the fields as given, ``canonical`` what the digest covers, ``tensors`` views of
    ``files``. ``source`` is the directory it was read from.
    """

    digest: str
    config: Mapping[str, Any] = field(repr=False)
    canonical: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    source: str | None = None

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(len(content) for content in self.files.values())


def adapter_digest(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """``sha256:…`` over the canonical config, then name, dtype, shape and bytes of every tensor.

    Tensors go in sorted by the name that PEFT saves them under. Raises AdapterInvalid for NaN or
    infinity, naming the tensor.
    """
    return _digest(canonical_config(config, lora_modules(tensors)), tensors)


def make_snapshot(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str | None = None,
    content: bytes | None = None,
) -> AdapterSnapshot:
    """The snapshot of a validated config and tensors; ``content``: their file, where there is one.

    Raises AdapterInvalid when there is no LoRA tensor, and for NaN or infinity.
    """
    modules = lora_modules(tensors)
    if not modules:
        raise AdapterInvalid(
            f"{source or 'adapter'}: no LoRA tensor (base_model.model.….lora_A.weight) among "
            f"{len(tensors)} tensors",
            "adapter_path",
        )
    canonical = canonical_config(config, modules)
    digest = _digest(canonical, tensors)
    files = {
        CONFIG_FILE: stored_config(canonical, config),
        TENSORS_FILE: encode_safetensors(tensors) if content is None else content,
    }
    return AdapterSnapshot(digest, dict(config), canonical, dict(tensors), files, source)


def _digest(canonical: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(_DOMAIN)

    def add(part: bytes | memoryview) -> None:
        # Lengths in front: no two different lists of parts give one stream of bytes.
        total.update(memoryview(part).nbytes.to_bytes(8, "little"))
        total.update(part)

    add(encode_config(canonical))
    for name in sorted(tensors):
        tensor = tensors[name]
        found = non_finite(tensor)
        if found:
            raise AdapterInvalid(f"tensor {name!r} holds {found}", "adapter_path")
        add(name.encode())
        add(tensor.dtype.encode())
        add(encode_config({"shape": list(tensor.shape)}))
        add(tensor.data)
    return SHA256_PREFIX + total.hexdigest()
