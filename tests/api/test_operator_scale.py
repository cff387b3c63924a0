"""Many objects: those of others cost nothing, and of our own each ends as its spec says, whatever
is done to them at the same time.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import KubeClient, Object, RefusedError
from tests.apiserver_pods import add_node
from tests.fleet_objects import children
from tests.installed_crd import sampler_path
from tests.live_fleet import SIM, LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until
from tests.spec_cases import changed, manifest

from sampler_api.fleet import ADAPTERS_FILE
from sampler_operator.kube.api import KubeApi
from sampler_operator.names import FLEET_LABEL, MANAGED_BY

AT_ONCE = 24


# What others have


def resident_mib(pid: int) -> float:
    return _mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The highest that it was since ``forget_peak``."""
    return _mib(pid, "VmHWM")


def _mib(pid: int, what: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{what}:")[2].split()[0]) / 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def create_foreign(kubeconfig: Path, namespace: str, count: int) -> None:
    """So many pods, of a scheduler that does not exist, and as many ConfigMaps."""
    api = await KubeApi.connect(str(kubeconfig))
    slots = asyncio.Semaphore(AT_ONCE)

    async def create(plural: str, body: Object) -> None:
        async with slots:
            await api.call("POST", f"/api/v1/namespaces/{namespace}/{plural}", body=body)

    containers = [{"name": "main", "image": "nowhere/image:1"}]
    pod = {"containers": containers, "schedulerName": "nobody"}
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                meta = {"name": f"foreign-{number}", "labels": {"app": "foreign"}}
                group.create_task(create("pods", {"metadata": meta, "spec": pod}))
                group.create_task(create("configmaps", {"metadata": meta, "data": {"a": "b"}}))
    finally:
        await api.close()


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1000, id="a thousand pods and config maps of others cost nothing"),
        pytest.param(
            5000,
            id="five thousand pods and config maps of others cost nothing",
            marks=[pytest.mark.slow, pytest.mark.timeout(300)],
        ),
    ],
)
def test_that(api_server: ApiServer, namespace: str, count: int) -> None:
    fleets = [LiveFleet(api_server, namespace, f"fleet-{number}") for number in range(5)]
    with OperatorProcess(api_server) as operator:
        for fleet in fleets:
            fleet.create({"replicas": 0})
        for fleet in fleets:
            fleet.wait_observed()
        pid = operator.pid
        memory, cpu = resident_mib(pid), cpu_seconds(pid)
        asyncio.run(create_foreign(api_server.admin_kubeconfig, namespace, count))
        # The watches have shown, after all of them, one of ours.
        fleets[0].change({"disruptionBudget": {"enabled": False}})
        fleets[0].wait(lambda: not fleets[0].has_child("PodDisruptionBudget"), "the budget goes")
        more, used = resident_mib(pid) - memory, cpu_seconds(pid) - cpu
        print(f"{count} pods and ConfigMaps of others: {more:.1f} MiB, {used:.2f} s CPU")
        # With watches that are not filtered a thousand took 4.2 MiB and 2.5 s.
        assert more < 3
        assert used < 0.5


async def for_each(kubeconfig: Path, count: int, call: Callable[[KubeApi, int], Any]) -> None:
    """So many calls, some at once."""
    api = await KubeApi.connect(str(kubeconfig))
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await call(api, number)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
    finally:
        await api.close()


@contextmanager
def holders(kubeconfig: Path, namespace: str, node: str, count: int) -> Iterator[None]:
    """So many pods on a node, as large as those of a cluster are; TAKEN of them have a GPU."""
    path = f"/api/v1/namespaces/{namespace}/pods"

    async def create(api: KubeApi, number: int) -> None:
        resources = {"limits": {"nvidia.com/gpu": "1"}} if number < TAKEN else {}
        container = {"name": "main", "image": "nowhere/image:1", "resources": resources}
        meta = {"name": f"foreign-{number}", "annotations": {"padding": "x" * 4000}}
        body = {"metadata": meta, "spec": {"containers": [container], "nodeName": node}}
        await api.call("POST", path, body=body)

    async def delete(api: KubeApi, number: int) -> None:
        # Nobody is on that node who would end it.
        await api.call("DELETE", f"{path}/foreign-{number}", query={"gracePeriodSeconds": "0"})

    asyncio.run(for_each(kubeconfig, count, create))
    yield
    asyncio.run(for_each(kubeconfig, count, delete))


TAKEN = 20


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1000, id="a thousand pods"),
        pytest.param(
            5000, id="five thousand pods", marks=[pytest.mark.slow, pytest.mark.timeout(300)]
        ),
    ],
)
def test_while_a_fleet_waits_for_gpus_others_are_counted_in_little_memory(
    api_server: ApiServer, namespace: str, count: int
) -> None:
    node = f"{namespace}-gpus"
    # More than the nodes of other tests have.
    add_node(api_server.client, node, gpus=64, pods="10000")
    fleet = LiveFleet(api_server, namespace)
    try:
        with (
            holders(api_server.admin_kubeconfig, namespace, node, count),
            OperatorProcess(api_server) as operator,
        ):
            pid = operator.pid
            forget_peak(pid)
            before, cpu = resident_mib(pid), cpu_seconds(pid)
            vllm: Object = {"sim": None, "vllm": {}}
            fleet.create({"model": {"uri": "hf://a/b"}, "engine": vllm, "tensorParallelSize": 60})
            said = f"needs 60 nvidia.com/gpu on one node, largest free is {64 - TAKEN}"
            fleet.wait(lambda: said in fleet.condition("Ready").get("message", ""), "it waits")
            more, used = peak_mib(pid) - before, cpu_seconds(pid) - cpu
            print(f"{count} pods counted: {more:.1f} MiB more at the highest, {used:.2f} s CPU")
            # Lists as a whole, as dictionaries, took 184 MiB of 5,000.
            assert more < 12
            assert peak_mib(pid) < 150
    finally:
        api_server.client.delete(f"/api/v1/nodes/{node}")


# Many of our own

CHANGES = 5
FINAL: Mapping[str, Any] = {
    "image": "registry.example/sampler:5",
    "replicas": 0,
    "disruptionBudget": {"maxUnavailable": 2},
    "env": [{"name": "CHANGE", "value": "5"}],
}

Damage = tuple[str, Object | None]
DAMAGES: tuple[Damage, ...] = (
    ("Deployment", {"spec": {"minReadySeconds": 7}}),
    ("Deployment", {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
    ("Deployment", {"metadata": {"labels": {MANAGED_BY: None}}}),
    ("Service", {"spec": {"selector": {FLEET_LABEL: "another"}}}),
    ("Discovery", {"metadata": {"labels": {MANAGED_BY: "another", FLEET_LABEL: None}}}),
    ("ConfigMap", {"data": {ADAPTERS_FILE: "{}"}}),
    ("PodDisruptionBudget", {"spec": {"maxUnavailable": 9}}),
    *((kind, None) for kind in ("ConfigMap", "Deployment", "Discovery", "Service")),
    ("PodDisruptionBudget", None),
)


def change(number: int) -> Mapping[str, Any]:
    """The n-th change of a spec, of which the last one counts."""
    if number == CHANGES:
        return FINAL
    return {
        "image": f"registry.example/sampler:{number}",
        "disruptionBudget": {"enabled": number % 2 == 0, "maxUnavailable": number},
        "env": [{"name": "CHANGE", "value": str(number)}] if number % 2 else None,
        "networkPolicy": {"enabled": number == 3},
    } | ({"disruptionBudget": None} if number == 4 else {})


def damage(fleet: LiveFleet, kind: str, patch: Object | None) -> None:
    """Edit a child, or delete it."""
    path = fleet.child_path(kind)
    try:
        if patch is None:
            fleet.client.delete(path, {"propagationPolicy": "Background"})
        else:
            fleet.client.patch(path, patch)
    except RefusedError as refused:
        if refused.code not in (404, 409):
            raise


def write_all(fleets: list[LiveFleet], chance: random.Random) -> None:
    """One of several writers: every spec is changed, and now and then a child is damaged."""
    for number in range(1, CHANGES + 1):
        for fleet in chance.sample(fleets, len(fleets)):
            fleet.change(change(number))
            if chance.random() < 0.6:
                damage(fleet, *chance.choice(DAMAGES))


def by_fleet(client: KubeClient, namespace: str) -> dict[str, Object]:
    """The children of every fleet, as if all had one name."""
    found: dict[str, Object] = {}
    for what, child in children(client, namespace).items():
        fleet = child["metadata"]["ownerReferences"][0]["name"]
        text = json.dumps({what: child}).replace(fleet, "FLEET")
        found.setdefault(fleet, {}).update(json.loads(text))
    for objects in found.values():
        for child in objects.values():
            child["metadata"].pop("generation", None)
            child["metadata"]["annotations"].pop("deployment.kubernetes.io/revision", None)
    return found


@pytest.mark.timeout(180)  # hundreds of writes, and thrice as many of the operator
@pytest.mark.parametrize("count", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_each_of_many_ends_as_its_spec_says(
    api_server: ApiServer, namespace: str, count: int
) -> None:
    client = api_server.client
    names = [f"fleet-{number:03d}" for number in range(count)]
    fleets = [LiveFleet(api_server, namespace, name) for name in names]
    with OperatorProcess(
        api_server, "--namespace", namespace, "--log-level", "warning"
    ) as operator:
        for fleet in fleets:
            fleet.create({"replicas": 0})
        shares = [fleets[start::4] for start in range(4)]
        with ThreadPoolExecutor(4) as writers:
            list(writers.map(write_all, shares, map(random.Random, range(4))))
        reference = LiveFleet(api_server, namespace, "reference")
        client.post(sampler_path(namespace), manifest(changed(dict(SIM), dict(FINAL)), "reference"))
        reference.wait_observed()
        last: dict[str, Object] = {}

        def wrong() -> list[str]:
            last.update(by_fleet(client, namespace))
            return [name for name in names if last.get(name) != last["reference"]]

        wait_until(lambda: not wrong(), "all are as a new one", 60, 1.0)
        assert len(last["reference"]) == 5
        for fleet in fleets:
            fleet.wait_observed()
        assert "Traceback" not in operator.log
        figures = operator.metrics()
        assert figures["sampler_operator_queue_depth"] == 0
