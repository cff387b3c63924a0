"""``ports.View`` over kopf's indices, and over our own writes that the watches have yet to show."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from .. import names
from ..names import Key, Ref
from ..objects import Manifest
from ..observed import ChildView, Observed
from .resources import CHILDREN

__all__ = ["Index", "KubeView", "sd_bytes"]

_GONE_REMEMBERED = 64


class Index(Protocol):
    """The part of ``kopf.Index`` that is used."""

    def __iter__(self) -> Iterator[Any]:
        """The keys."""
        ...

    def get(self, key: Any, default: Any = ()) -> Iterable[Any]:
        """Values of all objects under a key."""
        ...


_KEPT = ("name", "namespace", "uid", "generation", "resourceVersion", "deletionTimestamp")


def sd_bytes(obj: Mapping[str, Any]) -> bytes:
    """What is kept of a SamplerDeployment."""
    meta = obj["metadata"]
    kept = {name: meta[name] for name in _KEPT if name in meta}
    return msgspec.json.encode(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": kept,
            "spec": obj.get("spec"),
            "status": obj.get("status") or {},
        }
    )


def _number(version: str) -> int:
    # Resource versions of one kind can be compared as numbers (KEP-5504, since Kubernetes 1.35;
    # in practice ever since they come from etcd).
    return int(version) if version.isdigit() else 0


class KubeView:
    """What the watches have shown, and what our own writes were answered."""

    def __init__(self) -> None:
        self._sds: Index
        self._pods: Index
        self._children: Mapping[str, Index] = {}
        self._written: dict[Key, dict[Ref, ChildView]] = {}
        self._written_sds: dict[Key, tuple[str, int, bytes]] = {}
        self._gone: deque[str] = deque(maxlen=_GONE_REMEMBERED)

    def attach(self, sds: Index, pods: Index, children: Mapping[str, Index]) -> None:
        """Read from these indices; children by kind."""
        self._sds, self._pods, self._children = sds, pods, children

    def all_keys(self) -> list[Key]:
        """Every SamplerDeployment."""
        return list(self._sds)

    def observed(self, key: Key) -> Observed | None:
        """See ``ports.View``."""
        sd = self._sd(key)
        if sd is None:
            return None
        return Observed(sd, self._children_of(key, sd), tuple(self._pods.get(key, ())))

    def wrote(self, key: Key, child: ChildView) -> None:
        """See ``ports.View``."""
        if child.uid not in self._gone:
            self._written.setdefault(key, {})[child.ref] = child

    def wrote_sd(self, key: Key, sd: Manifest) -> None:
        """See ``ports.View``."""
        meta = sd["metadata"]
        self._written_sds[key] = meta["uid"], _number(meta["resourceVersion"]), sd_bytes(sd)

    def gone(self, key: Key, ref: Ref | None, uid: str) -> None:
        """A watch has shown the end of an object; ``ref`` is None for the SamplerDeployment."""
        self._gone.append(uid)
        if ref is None:
            self._written.pop(key, None)
            self._written_sds.pop(key, None)
            return
        written = self._written.get(key, {})
        if ref in written and written[ref].uid == uid:
            del written[ref]

    def _sd(self, key: Key) -> Manifest | None:
        seen = next(iter(self._sds.get(key, ())), None)
        if seen is None:
            self._written_sds.pop(key, None)
            return None
        sd: Manifest = msgspec.json.decode(seen)
        written = self._written_sds.get(key)
        if written is not None:
            uid, version, data = written
            meta = sd["metadata"]
            if uid == meta["uid"] and version > _number(meta["resourceVersion"]):
                newer: Manifest = msgspec.json.decode(data)
                return newer
            del self._written_sds[key]
        return sd

    def _children_of(self, key: Key, sd: Manifest) -> dict[Ref, ChildView]:
        owner = sd["metadata"]["uid"]
        found: dict[Ref, ChildView] = {}
        for kind in CHILDREN:
            index = self._children.get(kind)
            for child in index.get(key, ()) if index is not None else ():
                if child.owner == owner:
                    found[child.ref] = child
        written = self._written.get(key)
        if written:
            for ref, child in list(written.items()):
                seen = found.get(ref)
                if seen is not None and _number(seen.version) >= _number(child.version):
                    del written[ref]
                elif child.owner == owner:
                    found[ref] = child
        return found
