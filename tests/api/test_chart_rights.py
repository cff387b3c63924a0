"""The rights of the chart under a real operator: enough, none too many, and named when they lack.

Nothing runs pods here, so the operator is a process with a token of the chart's service account.
The API server writes down what that account asks for.
"""

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self

import msgspec
import pytest
from tests import installed_chart
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.apiserver_pods import add_node, make_pod_ready, pod_path
from tests.installed_chart import (
    Audit,
    account_kubeconfig,
    install,
    operator_args,
    uninstall,
    without,
)
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until

from sampler_api.fleet import ReplicaStatus
from sampler_api.names import MANAGE_PORT
from sampler_operator import names
from sampler_operator.kube.resources import CHILDREN, path_of
from sampler_operator.kube.rights import CLUSTER_RIGHTS, NODE_RIGHTS, RIGHTS, Right

pytestmark = pytest.mark.long

# In this file, a cluster of its own.
audit, api_server = installed_chart.audit, installed_chart.api_server

FIVE: Final = ("ConfigMap", "Deployment", "Discovery", "PodDisruptionBudget", "Service")
FILES: Final = {"server": "files.example", "path": "/"}
EVERY_CHILD: Final[Object] = {
    "replicas": 2,
    "networkPolicy": {"enabled": True},
    "monitoring": {"podMonitor": {}},
    "lora": {
        "volumes": [{"name": "runs", "mountPath": "/adapters", "nfs": FILES}],
        "adapters": [{"name": "a", "path": "/adapters/a"}],
    },
}
LARGE: Final[Object] = {"model": {"uri": "hf://a/b"}, "engine": {"sim": None, "vllm": {}}}
FINALIZERS: Final = Right("update", names.GROUP, f"{names.PLURAL}/finalizers")
"""Never a request of the operator: an admission plugin asks whether it would be allowed."""

ASKED: Final = len(RIGHTS) + len(CLUSTER_RIGHTS)

_addresses = itertools.count(2)


class Replica:
    """A replica that has not taken in its adapters; ``address`` is a pod's."""

    def __init__(self) -> None:
        self.address = f"127.77.0.{next(_addresses)}"
        status = msgspec.json.encode(ReplicaStatus(ready=True, incarnation="a-1"))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(status)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((self.address, MANAGE_PORT), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def have_node(server: ApiServer) -> None:
    """One without GPUs; it stays."""
    if not server.client.exists("/api/v1/nodes/node-0"):
        add_node(server.client, "node-0")


def is_rolled_out(fleet: LiveFleet) -> bool:
    """All five children are there, and the status is of this generation."""
    found = fleet.get()
    seen = found.get("status", {}).get("observedGeneration")
    return seen == found["metadata"]["generation"] and all(map(fleet.has_child, FIVE))


def has_budget(fleet: LiveFleet, is_wanted: bool) -> bool:
    return fleet.has_child("PodDisruptionBudget") is is_wanted


def pod_monitor_crd() -> Object:
    """As much of the Prometheus operator as a PodMonitor needs to be stored."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    kinds = {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "podmonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": kinds,
            "versions": [version],
        },
    }


def orphan(sd: Object, kind: str) -> Object:
    """A child that no spec of today wants."""
    labels = {names.MANAGED_BY: names.FIELD_MANAGER, names.FLEET_LABEL: sd["metadata"]["name"]}
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": sd["metadata"]["name"],
        "uid": sd["metadata"]["uid"],
        "controller": True,
    }
    meta = {"name": "orphan", "labels": labels, "ownerReferences": [owner]}
    pod = {"containers": [{"name": "a", "image": "nowhere/image:1"}]}
    selector = {"matchLabels": {"app": "orphan"}}
    specs: dict[str, Object] = {
        "Deployment": {
            "replicas": 0,
            "selector": selector,
            "template": {"metadata": {"labels": {"app": "orphan"}}, "spec": pod},
        },
        "NetworkPolicy": {"podSelector": selector},
        "PodDisruptionBudget": {"selector": selector},
        "Service": {"ports": [{"port": 80}]},
    }
    resource = CHILDREN[kind]
    version = f"{resource.group}/{resource.version}".removeprefix("/")
    made = {"apiVersion": version, "kind": kind, "metadata": meta}
    return made | ({"spec": specs[kind]} if kind in specs else {})


def orphans(fleet: LiveFleet) -> list[str]:
    """Kinds of orphans that are there."""
    return [
        kind
        for kind, resource in CHILDREN.items()
        if fleet.client.exists(path_of(resource, fleet.namespace, "orphan"))
    ]


@pytest.fixture
def clean(api_server: ApiServer) -> Iterator[ApiServer]:
    """No release is left, whatever a test did."""
    yield api_server
    uninstall(api_server)


def check(kubeconfig: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`sampler-operator check`, as the pod of `helm test` runs it."""
    command = (sys.executable, "-m", "sampler_operator", "check", "--kubeconfig", str(kubeconfig))
    return subprocess.run(
        (*command, *options), capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.timeout(150)  # a pod that does not start is asked about after 20 s
def test_for_all_namespaces_the_operator_needs_every_right_of_the_chart_and_no_other(
    clean: ApiServer, namespace: str, tmp_path: Path, audit: Audit
) -> None:
    server = clean
    install(server)
    have_node(server)
    kubeconfig = account_kubeconfig(server, tmp_path)
    done = check(kubeconfig)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"all {ASKED} rights in all namespaces" in done.stdout

    audit.skip()
    with OperatorProcess(server, kubeconfig=kubeconfig) as operator, Replica() as replica:
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        server.client.apply(f"{crds}/podmonitors.monitoring.coreos.com", pod_monitor_crd())
        fleet = LiveFleet(server, namespace)
        fleet.create(EVERY_CHILD)
        fleet.wait(lambda: is_rolled_out(fleet), "five children and a status", 40)
        fleet.wait(lambda: fleet.has_child("NetworkPolicy"), "a NetworkPolicy")
        fleet.wait(lambda: fleet.has_child("PodMonitor"), "a PodMonitor")
        nudge(fleet, replica)
        # GPUs that no node has.
        large = LiveFleet(server, namespace, "large")
        large.create(LARGE)
        # A claim that two replicas share.
        shared = LiveFleet(server, namespace, "shared")
        cache = {"volume": {"persistentVolumeClaim": {"claimName": "cache"}}}
        model = {"uri": "hf://a/b", "cache": cache}
        shared.create({"model": model, "engine": {"sim": None, "torch": {}}, "replicas": 2})
        # What is not wanted any more goes: also kinds of which today's specs always want one.
        for kind, resource in CHILDREN.items():
            server.client.post(path_of(resource, namespace), orphan(fleet.get(), kind))
        fleet.wait(lambda: not orphans(fleet), "orphans are deleted")
        for is_wanted in (False, True, False, True):
            fleet.change({"disruptionBudget": {"enabled": is_wanted}})
            what = f"the budget is {'there' if is_wanted else 'gone'}"
            fleet.wait(partial(has_budget, fleet, is_wanted), what)
        granted = {*RIGHTS, *CLUSTER_RIGHTS, *NODE_RIGHTS} - {FINALIZERS}
        watches = {right for right in granted if right.verb == "watch"}

        def unused() -> set[Right]:
            return granted - audit.used()

        wait_for_none(unused, watches, "every right is used")
        assert operator.stop() == 0
    # A watch is written down when it ends.
    wait_for_none(unused, set(), "every watch has ended")
    assert audit.used() == granted
    assert audit.refusals() == []
    assert "Traceback" not in operator.log


def nudge(fleet: LiveFleet, replica: Replica) -> None:
    """A pod becomes ready and lags behind its adapters; returns when the operator has told it."""

    def with_node() -> list[Object]:
        return [pod for pod in fleet.pods() if "nodeName" in pod["spec"]]

    fleet.wait(with_node, "a pod has a node")
    pod = make_pod_ready(fleet.client, with_node()[0], ip=replica.address)

    def is_told() -> bool:
        meta = fleet.client.get(pod_path(pod))["metadata"]
        return names.ADAPTERS_HASH in meta.get("annotations", {})

    fleet.wait(is_told, "the replica is told of its adapters")


def wait_for_none(rights: Callable[[], set[Right]], but: set[Right], what: str) -> None:
    """Until no ``rights`` are left ``but`` these."""
    try:
        wait_until(lambda: rights() <= but, what, 40)
    except AssertionError as error:
        raise AssertionError(f"{error}; left are {sorted(map(str, rights() - but))}") from None


def test_for_some_namespaces_the_operator_asks_for_nothing_outside_them(
    clean: ApiServer, namespace: str, tmp_path: Path, audit: Audit
) -> None:
    server, other = clean, f"{namespace}-b"
    make_namespace(server.client, other)
    have_node(server)
    install(server, {"watchNamespaces": [namespace, other]})
    options = [word for word in operator_args(server) if word.startswith("--namespace=")]
    assert len(options) == 2
    kubeconfig = account_kubeconfig(server, tmp_path)
    done = check(kubeconfig, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "free devices are not told (optional)" in done.stdout

    audit.skip()
    with OperatorProcess(server, *options, kubeconfig=kubeconfig) as operator:
        for place in (namespace, other):
            fleet = LiveFleet(server, place)
            fleet.create()
            fleet.wait(partial(is_rolled_out, fleet), "five children and a status", 40)
        # GPUs that no node has: how many are free elsewhere is not looked up.
        large = LiveFleet(server, namespace, "large")
        large.create(LARGE)
        said = "needs 1 nvidia.com/gpu on one node: 0/1 nodes are available"
        large.wait(lambda: said in large.condition("Ready").get("message", ""), "it waits")
        assert operator.stop() == 0
    assert audit.namespaces() == {namespace, other}
    assert audit.refusals() == []
    end_namespace(server.client, other)


def test_without_any_role_check_names_all_that_is_missing(clean: ApiServer, tmp_path: Path) -> None:
    install(clean, {"rbac": {"create": False}})
    kubeconfig = account_kubeconfig(clean, tmp_path)
    done = check(kubeconfig)
    assert done.returncode == 1
    assert 'cannot list resource "samplerdeployments"' in done.stderr


# -- a right less ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ApiServer, Path]]:
    """The chart, and the identity of its operator, for the tests below."""
    install(api_server)
    yield api_server, account_kubeconfig(api_server, tmp_path_factory.mktemp("account"))
    uninstall(api_server)


@pytest.fixture(scope="module")
def operator(installed: tuple[ApiServer, Path]) -> Iterator[OperatorProcess]:
    """One that has all rights when it starts."""
    server, kubeconfig = installed
    with OperatorProcess(server, kubeconfig=kubeconfig) as operator:
        yield operator
        assert operator.stop() == 0


REFUSED: Final = [
    (Right("patch", "", "services"), 'cannot patch resource "services"'),
    (Right("create", "apps", "deployments"), 'cannot create resource "deployments"'),
    (FINALIZERS, "it needs: update samplerdeployments/finalizers of sampler.dev"),
]


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize(("right", "told"), REFUSED, ids=[str(right) for right, _ in REFUSED])
def test_a_fleet_says_which_right_its_operator_lacks_and_goes_on_when_it_is_given(
    api_server: ApiServer, namespace: str, right: Right, told: str
) -> None:
    fleet = LiveFleet(api_server, namespace)
    with without(api_server, right):
        fleet.create()
        assert told in fleet.wait_for("Accepted", "False", "Forbidden")
    fleet.wait_for("Accepted", "True")
    fleet.wait(lambda: is_rolled_out(fleet), "five children and a status")


LOGGED: Final = [
    (Right("patch", names.GROUP, f"{names.PLURAL}/status"), "samplerdeployments/status"),
    (Right("create", "", "events"), 'cannot create resource "events"'),
]


@pytest.mark.parametrize(("right", "told"), LOGGED, ids=[str(right) for right, _ in LOGGED])
def test_the_log_says_which_right_the_operator_lacks_where_no_status_can(
    api_server: ApiServer, namespace: str, operator: OperatorProcess, right: Right, told: str
) -> None:
    fleet = LiveFleet(api_server, namespace)
    with without(api_server, right):
        fleet.create()
        wait_until(lambda: told in operator.log, "the log names it")
        fleet.wait(lambda: all(map(fleet.has_child, FIVE)), "the children are made all the same")
    assert "Traceback" not in operator.log
    fleet.wait(lambda: is_rolled_out(fleet), "and has its status then")


def test_an_operator_that_may_not_list_ends_with_a_line_that_says_so(
    installed: tuple[ApiServer, Path],
) -> None:
    server, kubeconfig = installed
    operator = OperatorProcess(server, kubeconfig=kubeconfig)
    with ExitStack() as stack, without(server, Right("list", "policy", "poddisruptionbudgets")):
        stack.push(operator)
        operator.start(wait=False)
        assert operator.wait() == 1
        last = operator.log.splitlines()[-1]
    assert last.startswith("sampler-operator: ")
    assert 'cannot list resource "poddisruptionbudgets"' in last
    assert "Traceback" not in operator.log


def test_an_operator_that_may_not_watch_says_so(installed: tuple[ApiServer, Path]) -> None:
    server, kubeconfig = installed
    with (
        without(server, Right("watch", "", "pods")),
        OperatorProcess(server, kubeconfig=kubeconfig) as operator,
    ):
        told = 'cannot watch resource "pods"'
        wait_until(lambda: told in operator.log, "the log names it")


def test_check_names_a_right_that_is_missing(installed: tuple[ApiServer, Path]) -> None:
    server, kubeconfig = installed
    with without(server, Right("delete", "", "configmaps")):
        done = check(kubeconfig)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sampler-operator: may not delete configmaps",
        f"sampler-operator: 1 of {ASKED} rights are missing in all namespaces",
    ]
