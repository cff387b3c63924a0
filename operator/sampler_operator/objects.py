"""Kubernetes objects as dicts: the type of a manifest, ownership, digests, and the comparison that
decides whether an object must be written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from . import names
from .quantities import is_same_quantity
from .spec import SamplerDeployment

__all__ = [
    "Manifest",
    "contains",
    "digest",
    "digest_of",
    "key_of",
    "metadata",
    "ref_of",
    "with_digest",
]

Manifest = dict[str, Any]

_LIST_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "claims": ("name",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Lists that are maps to server-side apply, with the fields that make an entry's key."""

_QUANTITY_PARENTS: Final = frozenset({"limits", "overhead", "requests"})
_QUANTITY_FIELDS: Final = frozenset({"divisor", "sizeLimit"})
_TEXT_MAPS: Final = frozenset({"annotations", "data", "labels", "matchLabels", "nodeSelector"})
_WHOLE_MAPS: Final = frozenset({"matchLabels", "nodeSelector", "podSelector", "selector"})
"""Maps that server-side apply takes as one value: an entry more makes another selector."""

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


def digest_of(manifest: Manifest) -> str:
    """The digest that ``with_digest`` has put into a manifest."""
    annotations: Manifest = manifest["metadata"].get("annotations", {})
    return str(annotations.get(names.DIGEST, ""))


def contains(observed: Any, desired: Any, field: str = "", parent: str = "") -> bool:
    """Whether ``observed`` has everything that ``desired`` says; what others added does not count.

    Quantities are compared as amounts and keyed lists by key. A desired zero value (empty text,
    false, 0) may be missing, since the API server leaves such fields out.
    """
    if observed is None:
        return _is_zero(desired)
    if isinstance(desired, dict):
        if not isinstance(observed, dict):
            return False
        if field in _TEXT_MAPS and not desired.keys() <= observed.keys():
            return False  # in maps of text nothing is left out
        if field in _WHOLE_MAPS and not observed.keys() <= desired.keys():
            return False
        return all(
            contains(observed.get(name), value, name, field) for name, value in desired.items()
        )
    if isinstance(desired, (list, tuple)):
        return isinstance(observed, list) and _contains_list(observed, desired, field, parent)
    if observed == desired and isinstance(observed, bool) == isinstance(desired, bool):
        return True
    if field in _QUANTITY_FIELDS or parent in _QUANTITY_PARENTS:
        return is_same_quantity(observed, desired)
    return False


def _contains_list(observed: list[Any], desired: Sequence[Any], field: str, parent: str) -> bool:
    if _is_map(field, parent):
        keys = [_entry_key(entry, field) for entry in desired]
        by_key = {_entry_key(entry, field): entry for entry in observed}
        if None not in keys:
            return all(
                key in by_key and contains(by_key[key], entry, field)
                for key, entry in zip(keys, desired, strict=True)
            )
    return len(observed) == len(desired) and all(
        contains(a, b, field) for a, b in zip(observed, desired, strict=True)
    )


def _is_map(field: str, parent: str) -> bool:
    # Ports of containers and Services are maps, those of a NetworkPolicy's rules are not.
    return field in _LIST_KEYS or (field == "ports" and parent not in ("egress", "ingress"))


def _entry_key(entry: Any, field: str) -> tuple[Any, ...] | None:
    """The key of an entry of a list that is a map; None if it lacks one."""
    if not isinstance(entry, dict):
        return None
    parts: tuple[Any, ...]
    if field == "ports":
        parts = entry.get("containerPort", entry.get("port")), entry.get("protocol") or "TCP"
    else:
        parts = tuple(entry.get(name) for name in _LIST_KEYS[field])
    return parts if all(isinstance(part, (int, str)) for part in parts) else None


def _is_zero(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_zero(part) for part in value.values())
    return value is None or value == "" or value == 0 or value == [] or value == ()
