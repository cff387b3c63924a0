"""What the programs of the control plane are told, beyond ``tests.apiserver_flags``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.apiserver_certificates import Authority, Certificate
from tests.apiserver_client import KubeClient, Object, RefusedError
from tests.cluster.addresses import DNS_DOMAIN, Addresses

__all__ = ["CONTROLLER_FLAGS", "NAMES", "api_flags", "apply_dns", "corefile"]

NAMES: Final = tuple(
    f"DNS:kubernetes{suffix}"
    for suffix in ("", ".default", ".default.svc", f".default.svc.{DNS_DOMAIN}")
)
CONTROLLER_FLAGS: Final = (
    # Longer than nodeLeaseDurationSeconds of the kubelets.
    "--node-monitor-grace-period=12s",
    "--node-startup-grace-period=12s",
    "--node-monitor-period=1s",
)
_DNS: Final = {"name": "kube-dns", "namespace": "kube-system"}
_DNS_READER: Final = "coredns"


def api_flags(
    at: Addresses, authority: Authority, front: Authority, kubelets: Certificate, proxy: Certificate
) -> Sequence[str]:
    """Of kube-apiserver, after those of one without nodes: the last one of a name counts."""
    return (
        f"--service-cluster-ip-range={at.services}",
        "--endpoint-reconciler-type=lease",
        f"--kubelet-certificate-authority={authority.own.certificate}",
        f"--kubelet-client-certificate={kubelets.certificate}",
        f"--kubelet-client-key={kubelets.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={front.own.certificate}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={proxy.certificate}",
        f"--proxy-client-key-file={proxy.key}",
    )


def corefile(at: Addresses, kubeconfig: Path) -> str:
    """Of CoreDNS: names of the cluster and no others."""
    return f"""\
.:53 {{
  bind {at.control_plane}
  errors
  kubernetes {DNS_DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 1
  }}
}}
"""


def apply_dns(client: KubeClient, at: Addresses) -> None:
    """The service of the cluster's DNS, and what the server there may read."""
    ports = [
        {"name": f"dns-{kind.lower()}", "port": 53, "protocol": kind} for kind in ("TCP", "UDP")
    ]
    service: Object = {"metadata": _DNS, "spec": {"clusterIP": at.dns_service, "ports": ports}}
    endpoints: Object = {
        "metadata": {**_DNS, "labels": {"kubernetes.io/service-name": _DNS["name"]}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.control_plane], "conditions": {"ready": True}}],
        "ports": ports,
    }
    resources = ["endpoints", "services", "pods", "namespaces", "nodes"]
    verbs = ["get", "list", "watch"]
    role: Object = {
        "metadata": {"name": _DNS_READER},
        "rules": [
            {"apiGroups": [""], "resources": resources, "verbs": verbs},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
        ],
    }
    group = "rbac.authorization.k8s.io"
    binding: Object = {
        "metadata": {"name": _DNS_READER},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": _DNS_READER},
        "subjects": [{"apiGroup": group, "kind": "User", "name": _DNS_READER}],
    }
    for path, body in (
        (f"/apis/{group}/v1/clusterroles", role),
        (f"/apis/{group}/v1/clusterrolebindings", binding),
        ("/api/v1/namespaces/kube-system/services", service),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", endpoints),
    ):
        try:
            client.post(path, body)
        except RefusedError as refused:
            if refused.code != 409:
                raise
