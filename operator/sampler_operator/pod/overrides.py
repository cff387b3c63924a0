"""``podTemplateOverrides``: a strategic merge over the pod template.

The rules are those of ``kubectl patch --type=strategic``: maps merge, null deletes, lists of named
things merge by their key, other lists are replaced; ``$patch: delete`` takes a map or an entry out,
``$patch: replace`` puts the rest of its map, or of its list, in the place of what was there.
"""

from collections.abc import Mapping
from typing import Any, Final

from ..objects import Manifest

__all__ = ["merged"]

_MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""``patchMergeKey`` of the lists of a pod template."""

_DIRECTIVE: Final = "$patch"
_DIRECTIVES: Final = ("delete", "merge", "replace")


def merged(base: Any, patch: Any, field: str = "") -> Any:
    """``base`` with ``patch`` over it; neither is changed."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return _plain(patch) if patch.get(_DIRECTIVE) == "replace" else _merged_maps(base, patch)
    if isinstance(base, list) and isinstance(patch, list) and field in _MERGE_KEYS:
        if any(_directive(entry) == "replace" for entry in patch):
            return _plain(patch)
        return _merged_lists(base, patch, _MERGE_KEYS[field])
    return _plain(patch)


def _directive(value: Any) -> Any:
    return value.get(_DIRECTIVE) if isinstance(value, dict) else None


def _is_directive(name: str, value: Any) -> bool:
    # Another one stays, and so the API server refuses the template by its name.
    return name == _DIRECTIVE and value in _DIRECTIVES


def _merged_maps(base: Manifest, patch: Manifest) -> Manifest:
    result = dict(base)
    for name, value in patch.items():
        if _is_directive(name, value):
            continue
        if value is None or _directive(value) == "delete":
            result.pop(name, None)
        elif name in result:
            result[name] = merged(result[name], value, name)
        else:
            result[name] = _plain(value)
    return result


def _merged_lists(base: list[Any], patch: list[Any], merge_key: str) -> list[Any]:
    result = list(base)
    for entry in patch:
        key = entry.get(merge_key) if isinstance(entry, dict) else None
        place = next(
            (
                index
                for index, known in enumerate(result)
                if key is not None and isinstance(known, dict) and known.get(merge_key) == key
            ),
            None,
        )
        if _directive(entry) == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(_plain(entry))
        else:
            result[place] = merged(result[place], entry)
    return result


def _plain(value: Any) -> Any:
    """A patch on its own: without nulls, directives, and what they take out."""
    if isinstance(value, dict):
        return {
            name: _plain(part)
            for name, part in value.items()
            if part is not None and _directive(part) != "delete" and not _is_directive(name, part)
        }
    if isinstance(value, list):
        kept = [part for part in value if _directive(part) != "delete"]
        return [_plain(part) for part in kept if part != {_DIRECTIVE: "replace"}]
    return value
