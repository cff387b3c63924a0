"""``ports.Cluster`` on a real cluster."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from .. import names
from ..claims import AccessModes
from ..errors import ClusterError, Missing, Refused, Unavailable
from ..names import Key, Ref
from ..objects import Manifest, digest_of, ref_of
from ..observed import ChildView, child_view
from ..ports import DeviceRoom, Event
from .api import APPLY, MERGE, KubeApi
from .recorder import EVENTS, EventRecorder
from .resources import CHILDREN, CLAIMS, PODS, SAMPLER_DEPLOYMENTS, path_of
from .rooms import DeviceRooms

__all__ = ["KubeCluster"]

_CONFLICT: Final = "409"
_OF_A_WRITE: Final = {"fieldManager": names.FIELD_MANAGER, "fieldValidation": "Strict"}
_WARNINGS: Final = 20
_CREATED: Final = frozenset({"ConfigMap"})
"""These begin by a plain creation: to apply one would merge it into another's of the same name
without a conflict. All other kinds have a selector, which only one manager can own."""


class KubeCluster:
    """Writes children by server-side apply with one field manager.

    ``applied`` is told the kind of each that was taken; ``missed`` is called when a child that was
    to be deleted is not there.
    """

    def __init__(
        self,
        api: KubeApi,
        recorder: EventRecorder,
        applied: Callable[[str], None],
        missed: Callable[[], None],
    ) -> None:
        self._api = api
        self._recorder = recorder
        self._rooms = DeviceRooms(api)
        self._applied = applied
        self._missed = missed

    async def apply(self, manifest: Manifest, *, force: bool = True) -> ChildView:
        """See ``ports.Cluster``."""
        ref = ref_of(manifest)
        try:
            try:
                if not force and ref.kind in _CREATED:
                    return await self._create_child(manifest)
                return await self._patch_child(manifest, force)
            except Refused as error:
                if error.field != _CONFLICT:
                    raise type(error)(f"{ref}: {error.message}", error.field) from None
                # It may be this fleet's, and have lost the label by which it is watched.
                if force or not await self._is_ours(manifest):
                    raise Unavailable(error.message) from None
                return await self._patch_child(manifest, force=True)
        except Missing as error:
            raise Missing(f"{ref}: the cluster has no {ref.kind}: {error.message}") from None

    async def _patch_child(self, manifest: Manifest, force: bool) -> ChildView:
        ref, meta = ref_of(manifest), manifest["metadata"]
        query = _OF_A_WRITE | ({"force": "true"} if force else {})
        path = path_of(CHILDREN[ref.kind], meta["namespace"], ref.name)
        answer = await self._api.call("PATCH", path, query=query, body=manifest, content_type=APPLY)
        return self._taken(manifest, answer)

    def _taken(self, manifest: Manifest, answer: Manifest) -> ChildView:
        self._applied(str(manifest["kind"]))
        return msgspec.structs.replace(child_view(answer), applied=digest_of(manifest))

    async def _create_child(self, manifest: Manifest) -> ChildView:
        ref, meta = ref_of(manifest), manifest["metadata"]
        path = path_of(CHILDREN[ref.kind], meta["namespace"])
        answer = await self._api.call("POST", path, query=_OF_A_WRITE, body=manifest)
        return self._taken(manifest, answer)

    async def _is_ours(self, manifest: Manifest) -> bool:
        """Whether the object exists and has the same owner. Raises Refused if it has another."""
        ref, meta = ref_of(manifest), manifest["metadata"]
        path = path_of(CHILDREN[ref.kind], meta["namespace"])
        found = await self._api.call(
            "GET", path, query={"fieldSelector": f"metadata.name={ref.name}"}
        )
        if not found["items"]:
            return False
        owners = found["items"][0]["metadata"].get("ownerReferences") or ()
        if meta["ownerReferences"][0]["uid"] in (owner["uid"] for owner in owners):
            return True
        raise Refused(
            f"{ref} exists already and is not this fleet's: rename the SamplerDeployment, or delete"
            f" that {ref.kind}",
            "metadata.name",
        )

    async def delete(self, key: Key, ref: Ref) -> None:
        """See ``ports.Cluster``."""
        path = path_of(CHILDREN[ref.kind], key.namespace, ref.name)
        try:
            await self._api.call("DELETE", path, query={"propagationPolicy": "Background"})
        except Missing:
            self._missed()

    async def patch_status(self, key: Key, uid: str, status: Manifest) -> Manifest:
        """See ``ports.Cluster``. The uid keeps the status of a former object from a new one."""
        path = path_of(SAMPLER_DEPLOYMENTS, key.namespace, key.name) + "/status"
        body = {"metadata": {"uid": uid}, "status": _with_nulls(status)}
        answer: Manifest = await self._api.call(
            "PATCH",
            path,
            query={"fieldManager": names.FIELD_MANAGER},
            body=body,
            content_type=MERGE,
        )
        return answer

    async def annotate_pod(self, key: Key, pod: str, annotations: Mapping[str, str]) -> None:
        """See ``ports.Cluster``."""
        path = path_of(PODS, key.namespace, pod)
        body = {"metadata": {"annotations": dict(annotations)}}
        try:
            await self._api.call("PATCH", path, body=body, content_type=MERGE)
        except Missing:
            return

    def emit(self, sd: Manifest, event: Event) -> None:
        """See ``ports.Cluster``."""
        self._recorder.put(sd, event)

    async def pod_warnings(self, key: Key, uid: str) -> list[Event]:
        """See ``ports.Cluster``."""
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": str(_WARNINGS)}
        answer = await self._api.call("GET", path_of(EVENTS, key.namespace), query=query)
        found = sorted(answer["items"], key=_time_of, reverse=True)
        return [
            Event("Warning", str(item.get("reason", "")), str(item.get("message", "")))
            for item in found
        ]

    async def device_room(self, resource: str) -> DeviceRoom | None:
        """See ``ports.Cluster``. Reads all nodes and pods: asked for only while a pod waits."""
        return await self._rooms.room(resource)

    async def access_modes(self, key: Key, claim: str) -> AccessModes | None:
        """See ``ports.Cluster``."""
        try:
            found = await self._api.call("GET", path_of(CLAIMS, key.namespace, claim))
        except ClusterError:
            return None
        return tuple(found["spec"].get("accessModes") or ())


def _with_nulls(status: Manifest) -> Manifest:
    """A merge patch deletes what is null; fields that a status may lose are said."""
    optional = ("image", "engine", "adapters", "bases", "adaptersSummary")
    return {**dict.fromkeys(optional), **status}


def _time_of(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
