"""The operator of a cluster with pods, as `helm install` makes it."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from tests.cluster.images import image_name
from tests.kube_commands import KubeCommands
from tests.rendered_chart import CHART, NAMESPACE, RELEASE

__all__ = ["RESTRICTED", "install_operator", "make_restricted"]

RESTRICTED: Final = "pod-security.kubernetes.io/enforce=restricted"


def install_operator(cluster: KubeCommands, more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The chart, with our images and ``more`` values; the operator's namespace. Its pod is
    ready."""
    repository, _, tag = image_name("sampler-operator").rpartition(":")
    values = {
        "image": {"repository": repository, "tag": tag},
        "images": {name: image_name(f"sampler-{name}") for name in ("sim", "torch")},
        **more,
    }
    cluster.helm(
        *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--create-namespace", "--values", "-", "--wait", "--timeout", "90s"),
        input=json.dumps(values),
        seconds=100,
    )
    return NAMESPACE


def make_restricted(cluster: KubeCommands, name: str) -> None:
    """A namespace that refuses pods which are not of the Pod Security standard ``restricted``."""
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, RESTRICTED)
