"""The harness of this folder is a Kubernetes: what the other tests rely on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import KubeClient, Object, RefusedError
from tests.apiserver_pods import (
    bind_pod,
    fail_pod,
    list_pods,
    make_pod_ready,
    make_pod_wait,
    play_kubelet,
    remove_pod,
)
from tests.kube_tools import kube_tool, pinned_version
from tests.proxy import wait_until


def pod(name: str, **spec: object) -> Object:
    container = {"name": "main", "image": "nowhere/image:1"}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def deployment(name: str, replicas: int) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod("")["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def scheduled(client: KubeClient, namespace: str) -> list[Object]:
    every = list_pods(client, namespace, "app=web")
    return [each for each in every if "nodeName" in each["spec"]]


def conditions(found: Object) -> dict[str, str]:
    return {each["type"]: each["status"] for each in found["status"].get("conditions", [])}


@pytest.mark.skipif("KUBEBUILDER_ASSETS" in os.environ, reason="other versions than the pinned")
def test_server_and_tools_have_the_pinned_versions(api_server: ApiServer) -> None:
    advice = f"remove {kube_tool('kubectl').parent} and run `make kube-tools`"
    kubernetes = pinned_version("hyperkube", "k8s.io/kubernetes")
    assert api_server.client.get("/version")["gitVersion"] == kubernetes, advice
    kubectl = json.loads(api_server.kubectl("version", "--output=json").stdout)
    assert kubectl["clientVersion"]["gitVersion"] == kubernetes, advice
    helm = api_server.helm("version", "--template={{.Version}}").stdout
    assert helm == pinned_version("helm", "helm.sh/helm/v3"), advice
    etcd = subprocess.run((kube_tool("etcd"), "--version"), capture_output=True, check=True).stdout
    version = pinned_version("etcd", "go.etcd.io/etcd/server/v3").removeprefix("v")
    assert f"etcd Version: {version}\n" in etcd.decode(), advice


def test_programs_end_with_the_process_that_started_them_and_not_with_its_thread(
    tmp_path: Path,
) -> None:
    script = f"""
import os, pathlib, signal, threading
from tests.apiserver_processes import Processes
from tests.proxy import wait_until
programs = Processes(pathlib.Path({str(tmp_path / "logs")!r}))
def start():
    programs.start("tail", "tail", "-f", "/dev/null", environment=os.environ)
    program = pathlib.Path(f"/proc/{{programs.pid('tail')}}/comm")
    wait_until(lambda: program.read_text() == "tail\\n", "it runs")
thread = threading.Thread(target=start)
thread.start()
thread.join()
wait_until(lambda: not pathlib.Path(f"/proc/self/task/{{thread.native_id}}").exists(), "it is gone")
programs.start("other", "tail", "-f", "/dev/null", environment=os.environ)
programs.kill("other")
print(programs.pid("tail"), programs.is_running("tail"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    words = (sys.executable, "-c", script)
    output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False).stdout
    pid, is_running = output.split()
    assert is_running == "True"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the program has ended")


def test_a_namespace_has_its_service_account_and_no_pods(
    api_server: ApiServer, namespace: str
) -> None:
    accounts = api_server.client.items(f"/api/v1/namespaces/{namespace}/serviceaccounts")
    assert [each["metadata"]["name"] for each in accounts] == ["default"]
    assert list_pods(api_server.client, namespace) == []


def test_a_deployment_is_available_when_the_pods_on_its_nodes_are_ready(
    api_server: ApiServer, namespace: str, nodes: tuple[str, ...]
) -> None:
    client = api_server.client
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    client.post(path, deployment("web", 2))
    service = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    client.post(
        f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "web"}, "spec": service}
    )

    wait_until(lambda: len(scheduled(client, namespace)) == 2, "both pods have a node")
    assert {each["spec"]["nodeName"] for each in scheduled(client, namespace)} <= set(nodes)
    addresses = {
        make_pod_ready(client, each)["status"]["podIP"] for each in scheduled(client, namespace)
    }

    wait_until(
        lambda: conditions(client.get(f"{path}/web")).get("Available") == "True", "it is available"
    )
    assert all(conditions(each)["PodScheduled"] == "True" for each in scheduled(client, namespace))

    def endpoints() -> set[str]:
        slices = client.items(
            f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
            labelSelector="kubernetes.io/service-name=web",
        )
        every = [each for one in slices for each in one["endpoints"] or []]
        return {each["addresses"][0] for each in every if each["conditions"]["ready"]}

    wait_until(lambda: endpoints() == addresses, "the service has both pods")


@pytest.mark.usefixtures("nodes")
def test_a_rolling_update_ends_when_kubelets_do_their_part(
    api_server: ApiServer, namespace: str
) -> None:
    client = api_server.client
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    client.post(path, deployment("web", 2))

    def are_ready(image: str) -> bool:
        play_kubelet(client, namespace)
        pods = list_pods(client, namespace, "app=web")
        images = [each["spec"]["containers"][0]["image"] for each in pods]
        ready = [conditions(each).get("Ready") for each in pods]
        return images == [image, image] and ready == ["True", "True"]

    wait_until(lambda: are_ready("nowhere/image:1"), "the first pods are ready")
    container = {"name": "main", "image": "nowhere/image:2"}
    template = {"template": {"spec": {"containers": [container]}}}
    client.patch(f"{path}/web", {"spec": template}, kind="strategic-merge")
    wait_until(lambda: are_ready("nowhere/image:2"), "new pods took the place of the old ones")


def test_a_deleted_pod_with_a_node_ends_when_its_containers_do(
    api_server: ApiServer, namespace: str, nodes: tuple[str, ...]
) -> None:
    client = api_server.client
    path = f"/api/v1/namespaces/{namespace}/pods"
    made = make_pod_ready(
        client, bind_pod(client, client.post(path, pod("one", schedulerName="none")), nodes[0])
    )
    client.delete(f"{path}/one")
    assert "deletionTimestamp" in client.get(f"{path}/one")["metadata"]
    remove_pod(client, made)
    assert not client.exists(f"{path}/one")


def test_pods_fail_as_kubectl_shows_it(
    api_server: ApiServer, namespace: str, nodes: tuple[str, ...]
) -> None:
    client = api_server.client
    path = f"/api/v1/namespaces/{namespace}/pods"
    made = {
        name: bind_pod(client, client.post(path, pod(name, schedulerName="none")), nodes[0])
        for name in ("crashed", "evicted", "unpulled")
    }
    fail_pod(client, made["crashed"], exit_code=137, reason="OOMKilled", restarts=3)
    fail_pod(client, made["evicted"])
    make_pod_wait(client, made["unpulled"], "ImagePullBackOff")
    shown = api_server.kubectl("get", "pods", "--no-headers", "--namespace", namespace).stdout
    rows = [line.split()[:4] for line in sorted(shown.splitlines())]
    assert rows == [
        ["crashed", "0/1", "CrashLoopBackOff", "3"],
        ["evicted", "0/1", "Error", "0"],
        ["unpulled", "0/1", "ImagePullBackOff", "0"],
    ]


def test_a_user_may_do_what_roles_say_and_no_more(api_server: ApiServer, namespace: str) -> None:
    pods, rbac = f"/api/v1/namespaces/{namespace}/pods", "rbac.authorization.k8s.io"
    reader = api_server.client_of("reader", ("readers",))
    with pytest.raises(RefusedError, match=r"403 Forbidden.*reader.*cannot list"):
        reader.get(pods)
    roles = f"/apis/{rbac}/v1/namespaces/{namespace}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    api_server.client.post(f"{roles}/roles", {"metadata": {"name": "pods"}, "rules": rules})
    binding = {
        "metadata": {"name": "pods"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "pods"},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": "readers"}],
    }
    api_server.client.post(f"{roles}/rolebindings", binding)

    def may_list() -> bool:
        try:
            return reader.items(pods) == []
        except RefusedError:
            return False

    wait_until(may_list, "the role counts")
    words = ("--namespace", namespace, "get", "secrets")
    told = api_server.kubectl(
        *words, kubeconfig=api_server.kubeconfig("reader", ("readers",)), check=False
    )
    assert "cannot list resource" in told.stderr
    assert api_server.kubectl(*words).returncode == 0


@pytest.mark.usefixtures("nodes")
def test_after_an_outage_all_is_there_and_goes_on(api_server: ApiServer, namespace: str) -> None:
    client = api_server.client
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    client.post(path, {"metadata": {"name": "kept"}})
    api_server.stop_api()
    with pytest.raises(OSError, match="refused"):
        client.get(f"{path}/kept")
    api_server.start_api()
    assert client.exists(f"{path}/kept")
    client.post(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("web", 1))
    wait_until(lambda: scheduled(client, namespace), "controllers and scheduler work on", 40)


def test_a_watch_from_a_forgotten_revision_is_gone(api_server: ApiServer, namespace: str) -> None:
    client = api_server.client
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    old = client.post(path, {"metadata": {"name": "one"}})["metadata"]["resourceVersion"]
    client.post(path, {"metadata": {"name": "two"}})
    watched = {"watch": "true", "resourceVersion": old}
    assert client.get(path, **watched)["object"]["metadata"]["name"] == "two"

    api_server.stop_api()
    api_server.compact()
    api_server.start_api()
    event = client.get(path, **watched)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == (
        "ERROR",
        410,
        "Expired",
    )
    with pytest.raises(RefusedError, match="410 Expired"):
        client.get(path, resourceVersion=old, resourceVersionMatch="Exact")
