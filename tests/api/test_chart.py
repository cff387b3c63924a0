"""The chart and manifests/install.yaml on a real API server: installed, upgraded, removed."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.generate_chart import INSTALL
from tests import installed_chart
from tests.apiserver import ApiServer
from tests.apiserver_pods import list_pods
from tests.installed_chart import CRD_PATH, install, operator_args, uninstall
from tests.installed_crd import sampler_path
from tests.proxy import wait_until
from tests.rendered_chart import CHART, NAMESPACE, RELEASE

from sampler_operator.schema import crd

# In this file, a cluster that has never seen the CRD.
audit, api_server = installed_chart.audit, installed_chart.api_server


@pytest.fixture
def clean(api_server: ApiServer) -> Iterator[ApiServer]:
    """No release is left, whatever a test did."""
    yield api_server
    uninstall(api_server)


def test_install_upgrade_uninstall_install(
    clean: ApiServer, namespace: str, tmp_path: Path
) -> None:
    server, old = clean, tmp_path / "old"
    shutil.copytree(CHART, old)
    template = old / "templates" / "crd.yaml"
    template.write_text(template.read_text().replace("    - sd\n", "    - samplers\n"))
    words = ("install", RELEASE, str(old), "--namespace", NAMESPACE, "--create-namespace")
    server.helm(*words)
    assert server.client.get(CRD_PATH)["spec"]["names"]["shortNames"] == ["samplers"]

    notes = install(server, {"workers": 4})
    assert "--workers=4" in operator_args(server)
    assert server.client.get(CRD_PATH)["spec"]["names"]["shortNames"] == ["sd"]
    assert_notes_work(server, notes, namespace)

    uninstall(server)
    assert server.client.exists(sampler_path(namespace, "sim")), "the fleet is gone with the chart"
    left = server.kubectl("get", "all,role,sa,clusterrole", "-A", "-l", "helm.sh/chart", "-oname")
    assert left.stdout == ""

    install(server)
    assert server.client.exists(sampler_path(namespace, "sim"))


def assert_notes_work(server: ApiServer, notes: str, namespace: str) -> None:
    """What the notes tell to apply and to bind can be applied and bound."""
    found = re.search(r"<<EOF\n(.*?)\n *EOF\n", notes, re.DOTALL)
    assert found is not None, notes
    server.kubectl("--namespace", namespace, "apply", "-f", "-", input=found[1])
    command = re.search(r"(create rolebinding .*?)\n\n?\Z", notes + "\n", re.DOTALL)
    assert command is not None, notes
    words = command[1].replace("\\\n", " ").replace("default:default", f"{namespace}:default")
    server.kubectl("--namespace", namespace, *words.split())
    account = f"system:serviceaccount:{namespace}:default"
    may = ("auth", "can-i", "--as", account, "--namespace", namespace, "watch")
    assert server.kubectl(*may, "endpointslices.discovery.k8s.io").stdout == "yes\n"
    assert server.kubectl(*may, "pods", check=False).stdout == "no\n"


def test_who_may_edit_or_view_a_namespace_may_edit_or_view_its_fleets(
    clean: ApiServer, namespace: str
) -> None:
    install(clean)
    for word in ("edit", "view"):
        words = ("create", "rolebinding", word, f"--clusterrole={word}", f"--user={word}")
        clean.kubectl("--namespace", namespace, *words)

    def may(user: str, *words: str) -> bool:
        asked = ("auth", "can-i", "--as", user, "--namespace", namespace, *words)
        return clean.kubectl(*asked, check=False).stdout == "yes\n"

    fleets, scale = "samplerdeployments.sampler.dev", "--subresource=scale"
    # The controller of aggregated roles takes a moment.
    wait_until(lambda: may("edit", "create", fleets), "an editor may make a fleet")
    wait_until(lambda: may("view", "list", fleets), "a viewer may see it")
    assert may("edit", "get", fleets, scale)
    assert may("edit", "patch", fleets, scale)
    assert may("view", "get", fleets, "--subresource=status")
    assert not may("view", "patch", fleets)
    assert not may("edit", "patch", fleets, "--subresource=status")


def test_the_crd_goes_with_the_release_where_that_is_said(clean: ApiServer) -> None:
    install(clean, {"crds": {"keep": False}})
    uninstall(clean)
    wait_until(lambda: not clean.client.exists(CRD_PATH), "the CRD is gone")


def test_a_crd_that_was_applied_before_is_taken_over_where_that_is_said(clean: ApiServer) -> None:
    clean.client.apply(CRD_PATH, crd())
    with pytest.raises(RuntimeError, match=r"samplerdeployments\.sampler\.dev"):
        install(clean)
    install(clean, {"crds": {"install": False}})
    uninstall(clean)
    install(clean, None, "--take-ownership")
    clean.client.delete(CRD_PATH)
    wait_until(lambda: not clean.client.exists(CRD_PATH), "the CRD is gone")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A control plane that clears namespaces too."""
    with ApiServer(tmp_path_factory.mktemp("whole")) as server:
        yield server


@pytest.mark.parametrize("words", [(), ("--server-side",)], ids=["client side", "server side"])
def test_the_install_manifest_is_applied_in_one_go_and_again_without_a_change(
    whole: ApiServer, words: tuple[str, ...]
) -> None:
    apply = ("apply", "-f", str(INSTALL), *words)
    whole.kubectl(*apply)
    before = whole.client.get(CRD_PATH)["metadata"]["generation"]
    again = whole.kubectl(*apply).stdout.splitlines()
    told = "serverside-applied" if words else "unchanged"
    assert [line for line in again if not line.endswith(told)] == []
    assert whole.client.get(CRD_PATH)["metadata"]["generation"] == before
    # Its namespace takes restricted pods alone.
    wait_until(lambda: list_pods(whole.client, NAMESPACE), "the operator has a pod")
    whole.kubectl("delete", "-f", str(INSTALL), "--wait=false")
    namespace = f"/api/v1/namespaces/{NAMESPACE}"
    wait_until(lambda: not whole.client.exists(namespace), "all is gone", 40)
    wait_until(lambda: not whole.client.exists(CRD_PATH), "the CRD is gone")
