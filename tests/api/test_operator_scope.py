"""Whom an operator serves and what it tells: some namespaces with Roles alone, nobody without the
CRD, and its metrics page.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.apiserver import ApiServer
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.fleet_objects import children
from tests.installed_crd import install_crd
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until

from sampler_operator.kube.rights import RIGHTS
from sampler_operator.names import GROUP, PLURAL

PREFIX = "sampler_operator_"
MADE = {"ConfigMap": 1.0, "Deployment": 1.0, "PodDisruptionBudget": 1.0, "Service": 2.0}


def test_the_metrics_page_tells_what_was_done(api_server: ApiServer, namespace: str) -> None:
    fleet = LiveFleet(api_server, namespace)
    with OperatorProcess(api_server, "--namespace", namespace) as operator:
        assert operator.writes() == 0
        fleet.create({"replicas": 0})
        fleet.wait_for("Ready", "False", "ScaledToZero")
        wait_until(
            lambda: operator.metrics().get(f'{PREFIX}deployments{{state="idle"}}') == 1,
            "its state is counted",
        )
        figures = operator.metrics()
    for kind, count in MADE.items():
        assert figures[f'{PREFIX}writes_total{{kind="{kind}",verb="apply"}}'] == count
    statuses = figures[f'{PREFIX}writes_total{{kind="SamplerDeployment",verb="status"}}']
    assert 1 <= statuses <= 4
    passes = figures[f'{PREFIX}reconciles_total{{result="ok"}}']
    assert 2 <= passes <= 30
    assert figures[f"{PREFIX}reconcile_seconds_count"] == passes
    assert 0 < figures[f"{PREFIX}reconcile_seconds_sum"] < 10
    assert figures[f"{PREFIX}queue_depth"] == 0
    assert not any(name.startswith(f"{PREFIX}errors_total") for name in figures)
    assert figures["process_resident_memory_bytes"] < 200 * 2**20


@pytest.fixture
def others(api_server: ApiServer, namespace: str) -> Iterator[tuple[str, str]]:
    """Two further namespaces."""
    names = (f"{namespace}-b", f"{namespace}-c")
    for name in names:
        make_namespace(api_server.client, name)
    yield names
    for name in names:
        end_namespace(api_server.client, name)


def with_roles(server: ApiServer, user: str, namespaces: tuple[str, ...]) -> None:
    """Give a user the operator's rights in these namespaces, and nowhere else."""
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}
        for right in RIGHTS
    ]
    for namespace in namespaces:
        path = f"/apis/{group}/v1/namespaces/{namespace}"
        server.client.post(f"{path}/roles", {"metadata": {"name": "operator"}, "rules": rules})
        binding = {
            "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "operator"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        server.client.post(f"{path}/rolebindings", binding)


def plugin_kubeconfig(server: ApiServer, namespace: str, folder: Path) -> tuple[str, Path]:
    """A user whose token a credential plugin prints, as on managed clusters: name, kubeconfig."""
    words = ("create", "token", "default", "--namespace", namespace)
    status = {"token": server.kubectl(*words).stdout.strip()}
    version = "client.authentication.k8s.io/v1"
    told = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    (folder / "credential.json").write_text(json.dumps(told))
    config = yaml.safe_load(server.admin_kubeconfig.read_text())
    plugin = {"command": "cat", "args": [str(folder / "credential.json")]}
    config["users"][0]["user"] = {
        "exec": {"apiVersion": version, "interactiveMode": "Never", **plugin}
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    return f"system:serviceaccount:{namespace}:default", folder / "kubeconfig"


def test_an_operator_of_two_namespaces_needs_roles_there_alone_and_sees_no_third(
    api_server: ApiServer, namespace: str, others: tuple[str, str], tmp_path: Path
) -> None:
    served, foreign = (namespace, others[0]), others[1]
    user, kubeconfig = plugin_kubeconfig(api_server, namespace, tmp_path)
    with_roles(api_server, user, served)
    unseen = LiveFleet(api_server, foreign)
    options = [f"--namespace={name}" for name in served]
    with OperatorProcess(api_server, *options, kubeconfig=kubeconfig) as operator:
        unseen.create({"replicas": 0})
        for name in served:
            fleet = LiveFleet(api_server, name)
            fleet.create({"replicas": 0})
            fleet.wait_for("Ready", "False", "ScaledToZero")
            assert len(children(fleet.client, name)) == 5
        assert "forbidden" not in operator.log
        assert "ERROR" not in operator.log
    assert unseen.status() == {}
    assert children(unseen.client, foreign) == {}


def test_without_the_crd_an_operator_ends_with_one_line(api_server: ApiServer) -> None:
    install_crd(api_server)
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
    words = [sys.executable, "-m", "sampler_operator", "run", "--metrics-port", "0"]
    words += ["--kubeconfig", str(api_server.admin_kubeconfig)]
    api_server.client.delete(path)
    try:
        wait_until(lambda: not api_server.client.exists(path), "the CRD is gone")
        for options in ((), ("--namespace", "default")):
            done = subprocess.run(
                (*words, *options), capture_output=True, text=True, check=False, timeout=30
            )
            assert (done.returncode, done.stdout) == (1, "")
            [line] = done.stderr.splitlines()
            assert line.startswith(
                "sampler-operator: the cluster has no samplerdeployments.sampler"
            )
            assert "apply the CRD first" in line
    finally:
        install_crd(api_server)
