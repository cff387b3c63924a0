"""Kubernetes objects as dicts: the type of a manifest, ownership, digests, and the comparison that
decides whether an object must be written.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from . import names
from .quantities import is_same_quantity
from .spec import SamplerDeployment

__all__ = [
    "MERGE_KEYS",
    "Manifest",
    "contains",
    "digest",
    "key_of",
    "metadata",
    "ref_of",
    "with_digest",
]

Manifest = dict[str, Any]

MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "name",
    "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists of Kubernetes' types that are maps: field name to the field that is the key."""

_QUANTITY_PARENTS: Final = frozenset({"limits", "requests", "capacity"})
_QUANTITY_FIELDS: Final = frozenset({"sizeLimit"})

_encoder = msgspec.json.Encoder(order="sorted")


def key_of(sd: SamplerDeployment) -> names.Key:
    """Which SamplerDeployment it is."""
    return names.Key(sd.metadata.namespace, sd.metadata.name)


def ref_of(manifest: Manifest) -> names.Ref:
    """Kind and name of a manifest."""
    return names.Ref(manifest["kind"], manifest["metadata"]["name"])


def digest(value: Any) -> str:
    """Hex digest of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(_encoder.encode(value)).hexdigest()[:32]


def metadata(sd: SamplerDeployment, name: str) -> Manifest:
    """Metadata of a child: labels, and the owner whose deletion deletes it."""
    key = key_of(sd)
    return {
        "name": name,
        "namespace": key.namespace,
        "labels": names.labels(key),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": key.name,
                "uid": sd.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def with_digest(manifest: Manifest) -> Manifest:
    """The manifest with its own digest in an annotation.

    ``contains`` cannot see that something was taken out of a manifest; the annotation shows it.
    """
    meta = manifest["metadata"]
    annotations = {**meta.get("annotations", {}), names.DIGEST: digest(manifest)}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


def contains(observed: Any, desired: Any, field: str = "", parent: str = "") -> bool:
    """Whether ``observed`` has everything that ``desired`` says; what others added does not count.

    Quantities are compared as amounts and keyed lists by key. A desired zero value (empty text,
    false, 0) may be missing, since the API server leaves such fields out.
    """
    if isinstance(desired, dict):
        if not isinstance(observed, dict):
            return not desired and observed is None
        return all(
            contains(observed[name], value, name, field) if name in observed else _is_zero(value)
            for name, value in desired.items()
        )
    if isinstance(desired, (list, tuple)):
        return isinstance(observed, list) and _contains_list(observed, list(desired), field)
    if observed == desired and isinstance(observed, bool) == isinstance(desired, bool):
        return True
    if field in _QUANTITY_FIELDS or parent in _QUANTITY_PARENTS or field in _QUANTITY_PARENTS:
        return is_same_quantity(observed, desired)
    return False


def _contains_list(observed: list[Any], desired: list[Any], field: str) -> bool:
    merge_key = MERGE_KEYS.get(field)
    if merge_key is not None and all(isinstance(v, dict) and merge_key in v for v in desired):
        by_key = {v.get(merge_key): v for v in observed if isinstance(v, dict)}
        return all(
            v[merge_key] in by_key and contains(by_key[v[merge_key]], v, field) for v in desired
        )
    return len(observed) == len(desired) and all(
        contains(a, b, field) for a, b in zip(observed, desired, strict=True)
    )


def _is_zero(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_zero(part) for part in value.values())
    return value is None or value == "" or value == 0 or value == [] or value == ()
