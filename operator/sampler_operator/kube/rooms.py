"""How many devices of a kind are free on which node: of all nodes and all pods of the cluster,
whose number and size nobody bounds. They are read page by page, and little of each becomes an
object.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from ..errors import ClusterError, Denied
from ..ports import DeviceRoom
from ..quantities import as_number
from .api import KubeApi
from .check import is_granted
from .rights import NODE_RIGHTS

__all__ = ["DeviceRooms"]

log = logging.getLogger(__name__)

_PAGE: Final = "200"
_DENIED_SECONDS: Final = 3600.0
# Without a version: with `resourceVersion=0` API servers before 1.33 ignore the limit.
_HOLDING: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

Quantities = Mapping[str, int | str]
T = TypeVar("T")


class _Resources(msgspec.Struct, frozen=True, gc=False):
    requests: Quantities = {}


class _Container(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    resources: _Resources = _Resources()
    restart_policy: str = ""


class _PodSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    containers: tuple[_Container, ...]
    node_name: str = ""
    init_containers: tuple[_Container, ...] = ()


class _Pod(msgspec.Struct, frozen=True, gc=False):
    spec: _PodSpec


class _Name(msgspec.Struct, frozen=True, gc=False):
    name: str


class _NodeSpec(msgspec.Struct, frozen=True, gc=False):
    unschedulable: bool = False


class _NodeStatus(msgspec.Struct, frozen=True, gc=False):
    allocatable: Quantities = {}


class _Node(msgspec.Struct, frozen=True, gc=False):
    metadata: _Name
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _ListMeta(msgspec.Struct, frozen=True, rename={"more": "continue"}):
    more: str = ""


class _Page(msgspec.Struct, Generic[T], frozen=True):
    metadata: _ListMeta
    items: tuple[T, ...]


class DeviceRooms:
    """Reads for one operator. It asks once an hour whether it may, rather than being refused."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._may_read = False
        self._asked = float("-inf")

    async def room(self, resource: str) -> DeviceRoom | None:
        """Room for an extended resource; ``None`` where nodes and pods may not be read, or cannot
        be now."""
        try:
            if not await self._is_allowed():
                return None
            taken: Counter[str] = Counter()
            async for pod in self._all("/api/v1/pods", _Page[_Pod], {"fieldSelector": _HOLDING}):
                taken[pod.spec.node_name] += _devices(pod.spec, resource)
            largest = free = 0
            async for node in self._all("/api/v1/nodes", _Page[_Node], {}):
                if not node.spec.unschedulable:
                    has = int(as_number(node.status.allocatable.get(resource, 0)))
                    largest = max(largest, has)
                    free = max(free, has - taken[node.metadata.name])
        except Denied:
            self._may_read = False
            return None
        except ClusterError as error:
            log.warning("free devices are not known: %s", error.message)
            return None
        return DeviceRoom(largest, free)

    async def _is_allowed(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._asked >= _DENIED_SECONDS:
            granted = [await is_granted(self._api, right, "") for right in NODE_RIGHTS]
            self._may_read, self._asked = all(granted), now
        return self._may_read

    async def _all(
        self, path: str, page_type: Any, query: Mapping[str, str]
    ) -> AsyncGenerator[Any]:
        """Every item, with one page at a time in memory. Raises ClusterError."""
        asked = {**query, "limit": _PAGE}
        while True:
            page = await self._api.call("GET", path, query=asked, answer=page_type)
            for item in page.items:
                yield item
            if not page.metadata.more:
                return
            asked["continue"] = page.metadata.more


def _devices(spec: _PodSpec, resource: str) -> int:
    """What the scheduler counts: the containers and sidecars together, or what an init container
    needs beside the sidecars that were started before it, whichever is more."""
    together = sum(_requested(each, resource) for each in spec.containers)
    sidecars = most = 0
    for each in spec.init_containers:
        count = _requested(each, resource)
        if each.restart_policy == "Always":
            sidecars += count
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + count)
    return max(together + sidecars, most)


def _requested(container: _Container, resource: str) -> int:
    return int(as_number(container.resources.requests.get(resource, 0)))
