"""``tests.backlog_api`` in a cluster: what an autoscaler asks for what waits at clients."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests import backlog_api
from tests.apiserver_certificates import Authority
from tests.cluster.images import image_name
from tests.kube_commands import KubeCommands

__all__ = ["backlog_metrics"]

_NAMESPACE: Final = "backlog-metrics"
_NAME: Final = "backlog"
_READY_SECONDS: Final = 60

Object = dict[str, Any]


@contextmanager
def backlog_metrics(cluster: KubeCommands, folder: Path) -> Iterator[None]:
    """The metrics APIs ``custom`` and ``external`` are there inside; the cluster must have none."""
    cluster.kubectl("create", "namespace", _NAMESPACE)
    try:
        listed = {"apiVersion": "v1", "kind": "List", "items": _objects(folder)}
        cluster.kubectl("apply", "-f", "-", input=json.dumps(listed))
        for each in _services():
            cluster.kubectl(
                *("wait", f"apiservice/{each['metadata']['name']}", "--for=condition=Available"),
                f"--timeout={_READY_SECONDS}s",
                seconds=_READY_SECONDS + 10,
            )
        yield
    finally:
        # First, for a namespace is not gone before every API has been asked for what is in it.
        names = [each["metadata"]["name"] for each in _services()]
        cluster.kubectl("delete", "apiservice", "--ignore-not-found", *names)
        cluster.kubectl("delete", "namespace", _NAMESPACE, "--wait=false")


def _services() -> list[Object]:
    """What makes the API server hand questions on."""
    made = []
    for version in (backlog_api.CUSTOM, backlog_api.EXTERNAL):
        group, _, number = version.partition("/")
        spec = {
            "group": group,
            "version": number,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": _NAMESPACE, "name": _NAME, "port": 443},
        }
        metadata = {"name": f"{number}.{group}"}
        api = "apiregistration.k8s.io/v1"
        made.append({"apiVersion": api, "kind": "APIService", "metadata": metadata, "spec": spec})
    return made


def _objects(folder: Path) -> list[Object]:
    own = Authority(folder / "authority").server(_NAME, (f"DNS:{_NAME}.{_NAMESPACE}.svc",))
    metadata = {"name": _NAME, "namespace": _NAMESPACE}
    files = {
        "backlog_api.py": Path(backlog_api.__file__).read_text(),
        "tls.crt": own.certificate.read_text(),
        "tls.key": own.key.read_text(),
    }
    labels = {"app": _NAME}
    container = {
        "name": _NAME,
        "image": image_name("sampler-sim"),
        "command": ["python", *(f"/files/{name}" for name in files)],
        "readinessProbe": {"tcpSocket": {"port": backlog_api.PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/files"}],
    }
    volume = {"name": "files", "secret": {"secretName": _NAME}}
    pod = {
        "containers": [container],
        "volumes": [volume],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    ports = [{"port": 443, "targetPort": backlog_api.PORT}]
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": files},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": ports},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        *_services(),
    ]
