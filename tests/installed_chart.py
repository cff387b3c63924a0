"""The chart in an API server of its own, and what the operator's service account asked it for.

``tests.apiserver`` gives a shared one, whose CRD belongs to no release; helm would not touch it. A
module that takes the fixtures ``audit`` and ``api_server`` from here has one for itself. It demands
the right to block the deletion of owners, as some distributions do.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.kube_tools import missing_tools
from tests.proxy import wait_until
from tests.rendered_chart import CHART, NAMESPACE, RELEASE

from sampler_operator.kube.rights import Right

__all__ = [
    "CRD_PATH",
    "Audit",
    "account_kubeconfig",
    "api_server",
    "audit",
    "install",
    "operator_args",
    "uninstall",
    "without",
]

CRD_PATH: Final = (
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/samplerdeployments.sampler.dev"
)
_ACCOUNT: Final = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
_ROLES: Final = "/apis/rbac.authorization.k8s.io/v1"


class Audit:
    """An API server's log of the operator's requests; ``options`` make it write one."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "audit.log"
        self._policy = folder / "audit-policy.json"
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata", "users": [_ACCOUNT]}, {"level": "None"}],
        }
        self._policy.write_text(json.dumps(policy))
        self._read = 0

    @property
    def options(self) -> tuple[str, str]:
        """Flags of kube-apiserver. A watch is written down when it ends."""
        return f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}"

    def skip(self) -> None:
        """Forget what has been asked so far."""
        self._read = self._log.stat().st_size if self._log.exists() else 0

    def used(self) -> set[Right]:
        """What was asked for since. An apply that makes an object needs the right to create."""
        found = set()
        for entry in self._entries():
            asked = entry["objectRef"]
            resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            right = Right(entry["verb"], asked.get("apiGroup", ""), resource)
            found.add(right)
            if right.verb == "patch" and entry["responseStatus"]["code"] == 201:
                found.add(right._replace(verb="create"))
        return found

    def refusals(self) -> list[str]:
        """Why something was not allowed since. That the API server does not know the CRD yet is
        no matter of rights."""
        answers = [entry["responseStatus"] for entry in self._entries()]
        denied = [answer["message"] for answer in answers if answer["code"] in (401, 403)]
        return [message for message in denied if "cannot find RESTMapping" not in message]

    def namespaces(self) -> set[str]:
        """Where something was asked for since; empty for the cluster."""
        return {entry["objectRef"].get("namespace", "") for entry in self._entries()}

    def _entries(self) -> Iterator[Object]:
        with self._log.open() as lines:
            lines.seek(self._read)
            for line in lines:
                # The API server may be writing it.
                entry: Object = json.loads(line) if line.endswith("\n") else {}
                # Discovery has none, and what one may do anybody may ask.
                resource = entry.get("objectRef", {}).get("resource")
                if resource not in (None, "selfsubjectaccessreviews"):
                    yield entry


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Of the module's API server."""
    return Audit(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory, audit: Audit) -> Iterator[ApiServer]:
    """In the place of the shared one."""
    missing = missing_tools()
    if missing:
        pytest.skip(f"no {', '.join(missing)}: `make kube-tools` builds them")
    folder = tmp_path_factory.mktemp("chart-server")
    plugin = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement"
    with ApiServer(folder, (*audit.options, plugin)) as server:
        yield server
    shutil.rmtree(folder)


def install(server: ApiServer, values: Mapping[str, Any] | None = None, *words: str) -> str:
    """`helm install`, or upgrade; what helm prints. Returns when the CRD is served."""
    printed = server.helm(
        *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--create-namespace", "--values", "-", *words),
        input=json.dumps(values or {}),
    ).stdout
    wait_until(lambda: _is_served(server), "the API server serves SamplerDeployments")
    return printed


def uninstall(server: ApiServer) -> None:
    """`helm uninstall`, if there is a release."""
    server.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait")


def operator_args(server: ApiServer) -> list[str]:
    """The words behind `sampler-operator` in the operator's pod."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}"
    [container] = server.client.get(path)["spec"]["template"]["spec"]["containers"]
    args: list[str] = container["args"]
    return args


def account_kubeconfig(server: ApiServer, folder: Path) -> Path:
    """A kubeconfig with a token of the operator's service account, as its pod would have one."""
    words = ("create", "token", RELEASE, "--namespace", NAMESPACE, "--duration=1h")
    token = server.kubectl(*words).stdout
    config = yaml.safe_load(server.admin_kubeconfig.read_text())
    config["users"] = [{"name": "user", "user": {"token": token}}]
    path = folder / "account.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def without(server: ApiServer, right: Right) -> Iterator[None]:
    """The operator's ClusterRole lacks a right inside."""
    path = f"{_ROLES}/clusterroles/{RELEASE}"
    role = server.client.get(path)
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs}
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if (verbs := [verb for verb in rule["verbs"] if (verb, group, resource) != right])
    ]
    assert sum(len(rule["verbs"]) for rule in rules) == _rights_of(role["rules"]) - 1
    server.client.patch(path, {"rules": rules})
    wait_until(lambda: not _may(server, right), f"the operator may no longer {right}")
    try:
        yield
    finally:
        server.client.patch(path, {"rules": role["rules"]})
        wait_until(lambda: _may(server, right), f"the operator may {right} again")


def _rights_of(rules: list[Object]) -> int:
    parts = ("apiGroups", "resources", "verbs")
    return sum(math.prod(len(rule[part]) for part in parts) for rule in rules)


def _may(server: ApiServer, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
    }
    review = {"spec": {"user": _ACCOUNT, "resourceAttributes": attributes}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(server.client.post(path, review)["status"]["allowed"])


def _is_served(server: ApiServer) -> bool:
    try:
        server.client.get("/apis/sampler.dev/v1alpha1/samplerdeployments")
    except RefusedError as refused:
        # Unknown at first, then "storage is (re)initializing".
        if refused.code not in (404, 429):
            raise
        return False
    return True
