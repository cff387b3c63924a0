"""How many devices are free, counted over pages of nodes and pods as API servers give them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.kube_answers import api_of

from sampler_operator.kube.rooms import DeviceRooms
from sampler_operator.ports import DeviceRoom

GPU = "nvidia.com/gpu"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Cluster:
    """Nodes and pods. A list is cut into pages of two, whatever the limit is."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.pods: list[dict[str, Any]] = []
        self.may_read = True
        self.is_denied = False
        self.asked: list[str] = []
        self.app = web.Application()
        self.app.router.add_get("/api/v1/nodes", self._list)
        self.app.router.add_get("/api/v1/pods", self._list)
        self.app.router.add_post(REVIEWS, self._review)

    def node(self, name: str, devices: int, **spec: Any) -> None:
        has = {"cpu": "64", GPU: str(devices)}
        self.nodes.append(
            {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": has}}
        )

    def pod(self, node: str, *devices: int, **spec: Any) -> None:
        self.pods.append(
            {"spec": {"nodeName": node, "containers": list(map(takes, devices)), **spec}}
        )

    async def _review(self, request: web.Request) -> web.Response:
        self.asked.append("review")
        return web.json_response({"status": {"allowed": self.may_read}})

    async def _list(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.is_denied:
            said = f'User "a" cannot list resource "{request.path}"'
            return web.json_response({"message": said}, status=403)
        assert int(request.query["limit"]) <= 500
        # With this version API servers ignore the limit.
        assert "resourceVersion" not in request.query
        every = self.nodes
        if request.path.endswith("pods"):
            every = self.pods
            chosen = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
            assert request.query["fieldSelector"] == chosen
        begin = int(request.query.get("continue", 0))
        meta = {"resourceVersion": "7"}
        if begin + 2 < len(every):
            meta |= {"continue": str(begin + 2)}
        return web.json_response({"metadata": meta, "items": every[begin : begin + 2]})


def takes(devices: int, **more: Any) -> dict[str, Any]:
    resources = {"requests": {GPU: str(devices)}} if devices else {}
    return {"name": "a", "image": "b", "resources": resources, **more}


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def rooms(cluster: Cluster) -> AsyncIterator[DeviceRooms]:
    async with api_of(cluster.app) as api:
        yield DeviceRooms(api)


async def test_all_pages_count(cluster: Cluster, rooms: DeviceRooms) -> None:
    for number in range(5):
        cluster.node(f"node-{number}", 8)
        for _ in range(3 + (number != 4)):
            cluster.pod(f"node-{number}", 1, 1)
    cluster.node("larger", 16)
    cluster.pod("larger", 15)
    assert await rooms.room(GPU) == DeviceRoom(largest_node=16, largest_free=2)
    assert await rooms.room("amd.com/gpu") == DeviceRoom(largest_node=0, largest_free=0)


async def test_a_node_that_takes_no_pods_has_no_room(cluster: Cluster, rooms: DeviceRooms) -> None:
    cluster.node("closed", 8, unschedulable=True)
    cluster.node("open", 4)
    assert await rooms.room(GPU) == DeviceRoom(largest_node=4, largest_free=4)


INIT = {
    "init containers run one after the other": ([2], [takes(1), takes(3)], 3),
    "init containers run before the others": ([4], [takes(1), takes(3)], 4),
    "sidecars stay": ([2], [takes(1, restartPolicy="Always")], 3),
    "an init container has sidecars beside it": (
        [1],
        [takes(1, restartPolicy="Always"), takes(4), takes(1, restartPolicy="Always")],
        5,
    ),
    "many sidecars": ([1], [takes(2, restartPolicy="Always")] * 3, 7),
    "none wants any": ([0], [takes(0)], 0),
}


@pytest.mark.parametrize(("devices", "init", "taken"), INIT.values(), ids=INIT.keys())
async def test_a_pod_takes_what_the_scheduler_counts(
    cluster: Cluster, rooms: DeviceRooms, devices: list[int], init: list[Any], taken: int
) -> None:
    cluster.node("node", 8)
    cluster.pod("node", *devices, initContainers=init)
    assert await rooms.room(GPU) == DeviceRoom(8, 8 - taken)


async def test_whoever_may_not_read_nodes_does_not_try(
    cluster: Cluster, rooms: DeviceRooms
) -> None:
    cluster.may_read = False
    for _ in range(3):
        assert await rooms.room(GPU) is None
    assert set(cluster.asked) == {"review"}
    assert len(cluster.asked) == 2


async def test_whoever_was_refused_does_not_try_again_soon(
    cluster: Cluster, rooms: DeviceRooms
) -> None:
    cluster.is_denied = True
    for _ in range(3):
        assert await rooms.room(GPU) is None
    assert [path for path in cluster.asked if path != "review"] == ["/api/v1/pods"]
