"""``ports.View`` over what the watches have shown, and what our own writes were answered.

Both feed one store: of two states of an object the newer one counts, and what has ended or lost our
label comes back only in a later state. Watches may lose the end of an object (a list after an
outage shows only what is left); ``sweep`` compares with a list of our own.
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from .. import names
from ..names import Key, Ref
from ..objects import Manifest
from ..observed import ChildView, Observed, PodView, child_view, pod_view

__all__ = ["KubeView"]

_TOMBSTONES: Final = 4096
_KEPT: Final = ("name", "namespace", "uid", "generation", "resourceVersion", "deletionTimestamp")

N = TypeVar("N")
T = TypeVar("T")


class _Entry(msgspec.Struct, Generic[T], frozen=True, gc=False):
    uid: str
    version: int
    value: T


def _sd_bytes(obj: Mapping[str, Any]) -> bytes:
    meta = obj["metadata"]
    said = msgspec.json.encode(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {name: meta[name] for name in _KEPT if name in meta},
            "spec": obj.get("spec"),
            "status": obj.get("status") or {},
        }
    )
    return zlib.compress(said, 1)


def version_of(obj: Mapping[str, Any]) -> int:
    """The resource version of an object or list, which for one kind grows with time.

    Kubernetes promises the order since 1.35 (KEP-5504); before, etcd's revisions had it anyway.
    """
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


class KubeView:
    """Everything that is ours in the cluster, as projections. All methods on one loop."""

    def __init__(self) -> None:
        self._sds: dict[Key, _Entry[bytes]] = {}
        self._children: dict[Key, dict[Ref, _Entry[ChildView]]] = {}
        self._pods: dict[Key, dict[str, _Entry[PodView]]] = {}
        self._homes: dict[str, Key] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()

    # -- what was seen -----------------------------------------------------------------------------

    def put(self, obj: Mapping[str, Any]) -> set[Key]:
        """An object in its present state; the keys that have to be looked at."""
        kind, meta = obj["kind"], obj["metadata"]
        uid, version = meta["uid"], version_of(obj)
        if kind == names.KIND:
            key = Key(meta["namespace"], meta["name"])
            if self._is_news(self._sds.get(key), uid, version):
                self._sds[key] = _Entry(uid, version, _sd_bytes(obj))
            return {key}
        key = _fleet(meta)
        if not self._may_be_news(kind, key, meta["name"], uid, version):
            return {key}
        if kind == "Pod":
            entry = _Entry(uid, version, pod_view(obj))
            return self._keep(self._pods, key, meta["name"], entry)
        return self._keep_child(key, child_view(obj))

    def end(self, obj: Mapping[str, Any]) -> set[Key]:
        """An object has ended, or has lost the label that makes it ours."""
        kind, meta = obj["kind"], obj["metadata"]
        uid = meta["uid"]
        self._ended[uid] = version_of(obj)
        if len(self._ended) > _TOMBSTONES:
            self._ended.popitem(last=False)
        if kind == names.KIND:
            key = Key(meta["namespace"], meta["name"])
        else:
            key = self._homes.get(uid, _fleet(meta))
        self._drop(kind, key, meta["name"], uid, version_of(obj))
        return {key}

    def sweep(self, kind: str, namespace: str, present: set[str], at: int) -> set[Key]:
        """Compare with a list of a kind: what is not in it any more has ended. The keys with news.

        ``present`` are the uids of the list and ``at`` is its version; an empty ``namespace``
        means all.
        """
        return {
            key
            for key, name, entry in list(self._entries(kind))
            if namespace in ("", key.namespace)
            if entry.uid not in present and self._drop(kind, key, name, entry.uid, at)
        }

    # -- ports.View --------------------------------------------------------------------------------

    def all_keys(self) -> list[Key]:
        """Every SamplerDeployment."""
        return list(self._sds)

    def observed(self, key: Key) -> Observed | None:
        """See ``ports.View``."""
        entry = self._sds.get(key)
        if entry is None:
            return None
        sd: Manifest = msgspec.json.decode(zlib.decompress(entry.value))
        children = {
            ref: child.value
            for ref, child in self._children.get(key, {}).items()
            if child.value.owner == entry.uid
        }
        pods = sorted(self._pods.get(key, {}).items())
        return Observed(sd, children, tuple(pod.value for _, pod in pods))

    def stamp(self, key: Key) -> int | None:
        """See ``ports.View``."""
        entry = self._sds.get(key)
        if entry is None:
            return None
        parts: list[_Entry[Any]] = [
            *self._children.get(key, {}).values(),
            *self._pods.get(key, {}).values(),
        ]
        return hash((entry.uid, entry.version, *sorted((p.uid, p.version) for p in parts)))

    def wrote(self, key: Key, child: ChildView) -> None:
        """See ``ports.View``. An apply without effect is answered with the version that is known:
        the answer counts all the same, as it says that the object is as it was applied."""
        known = self._children.get(key, {}).get(child.ref)
        if known is not None and (known.uid, known.value.version) == (child.uid, child.version):
            self._children[key][child.ref] = _Entry(known.uid, known.version, child)
        else:
            self._keep_child(key, child)

    def wrote_sd(self, key: Key, sd: Manifest) -> None:
        """See ``ports.View``."""
        self.put({"kind": names.KIND, **sd})

    # ----------------------------------------------------------------------------------------------

    def _keep_child(self, key: Key, child: ChildView) -> set[Key]:
        version = int(child.version) if child.version.isdigit() else 0
        return self._keep(self._children, key, child.ref, _Entry(child.uid, version, child))

    def _keep(
        self, table: dict[Key, dict[N, _Entry[T]]], key: Key, name: N, entry: _Entry[T]
    ) -> set[Key]:
        """Keep it if it is news; the keys with news. Its label may have moved it from another."""
        home = self._homes.get(entry.uid, key)
        known = [table.get(each, {}).get(name) for each in (home, key)]
        if not all(self._is_news(each, entry.uid, entry.version) for each in known):
            return {key}
        if home != key:
            _pop_nested(table, home, name, entry.uid, entry.version)
        table.setdefault(key, {})[name] = entry
        self._homes[entry.uid] = key
        return {home, key}

    def _may_be_news(self, kind: str, key: Key, name: str, uid: str, version: int) -> bool:
        """Whether a projection is worth its price; the echo of our own write is not."""
        if self._homes.get(uid, key) != key:
            return True
        known: _Entry[Any] | None
        if kind == "Pod":
            known = self._pods.get(key, {}).get(name)
        else:
            known = self._children.get(key, {}).get(Ref(kind, name))
        return self._is_news(known, uid, version)

    def _is_news(self, known: _Entry[Any] | None, uid: str, version: int) -> bool:
        ended = self._ended.get(uid)
        if ended is not None and version <= ended:
            return False
        return known is None or version > known.version

    def _drop(self, kind: str, key: Key, name: str, uid: str, at: int) -> bool:
        """Take an object out, unless another has its name or a later state of it is known."""
        if kind == names.KIND:
            return _pop(self._sds, key, uid, at)
        if kind == "Pod":
            was_there = _pop_nested(self._pods, key, name, uid, at)
        else:
            was_there = _pop_nested(self._children, key, Ref(kind, name), uid, at)
        if was_there:
            del self._homes[uid]
        return was_there

    def _entries(self, kind: str) -> Iterable[tuple[Key, str, _Entry[Any]]]:
        if kind == names.KIND:
            for key, sd in self._sds.items():
                yield key, key.name, sd
        elif kind == "Pod":
            for key, pods in self._pods.items():
                for name, pod in pods.items():
                    yield key, name, pod
        else:
            for key, children in self._children.items():
                for ref, child in children.items():
                    if ref.kind == kind:
                        yield key, ref.name, child


def _fleet(meta: Mapping[str, Any]) -> Key:
    return Key(meta["namespace"], (meta.get("labels") or {}).get(names.FLEET_LABEL, ""))


def _pop(entries: dict[Any, _Entry[Any]], name: object, uid: str, at: int) -> bool:
    entry = entries.get(name)
    if entry is None or entry.uid != uid or entry.version > at:
        return False
    del entries[name]
    return True


def _pop_nested(entries: dict[Key, Any], key: Key, name: object, uid: str, at: int) -> bool:
    found = entries.get(key, {})
    was_there = _pop(found, name, uid, at)
    if was_there and not found:
        del entries[key]
    return was_there
