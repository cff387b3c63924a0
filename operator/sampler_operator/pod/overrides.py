"""``podTemplateOverrides``: a strategic merge over the pod template.

The rules are those of ``kubectl patch --type=strategic``: maps merge, null deletes, lists of named
things merge by their key, other lists are replaced; ``$patch: delete`` takes an entry out.
"""

from typing import Any

from ..objects import MERGE_KEYS, Manifest

__all__ = ["merged"]

_DIRECTIVE = "$patch"


def merged(base: Any, patch: Any, field: str = "") -> Any:
    """``base`` with ``patch`` over it; neither is changed."""
    if isinstance(base, dict) and isinstance(patch, dict):
        if patch.get(_DIRECTIVE) == "replace":
            return {name: value for name, value in patch.items() if name != _DIRECTIVE}
        return _merged_maps(base, patch)
    if isinstance(base, list) and isinstance(patch, list) and field in MERGE_KEYS:
        return _merged_lists(base, patch, MERGE_KEYS[field])
    return _without_nulls(patch)


def _merged_maps(base: Manifest, patch: Manifest) -> Manifest:
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif name in result:
            result[name] = merged(result[name], value, name)
        else:
            result[name] = _without_nulls(value)
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
        if isinstance(entry, dict) and entry.get(_DIRECTIVE) == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(_without_nulls(entry))
        else:
            result[place] = merged(result[place], entry)
    return result


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value
