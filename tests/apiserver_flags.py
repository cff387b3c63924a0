"""Command lines of a control plane that lives as long as a test run, on one loopback address."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.apiserver_certificates import Authority, Certificate

__all__ = [
    "API_PORT",
    "PORTS",
    "api_server_flags",
    "controller_manager_flags",
    "etcd_flags",
    "etcd_url",
    "scheduler_flags",
]

API_PORT: Final = 6443
_ETCD_PORT: Final = 2379
_PEER_PORT: Final = 2380
PORTS: Final = (API_PORT, _ETCD_PORT, _PEER_PORT)

_API_SERVER: Final = (
    f"--secure-port={API_PORT}",
    "--service-cluster-ip-range=10.96.0.0/16",
    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    "--authorization-mode=Node,RBAC",
    # Beside the default ones, of which PodSecurity, ResourceQuota and LimitRanger are part.
    "--enable-admission-plugins=NodeRestriction",
    "--allow-privileged=true",
    # Services have no virtual addresses here; aggregated APIs are reached by their endpoints.
    "--enable-aggregator-routing=true",
    # Endpoints of the service `kubernetes` may not be loopback addresses.
    "--endpoint-reconciler-type=none",
    "--profiling=false",
    "--shutdown-delay-duration=0s",
)
_CLIENTS: Final = (
    "--leader-elect=false",
    "--secure-port=0",
    "--kube-api-qps=300",
    "--kube-api-burst=600",
)
_CONTROLLER_MANAGER: Final = (
    "--use-service-account-credentials=true",
    # Nobody renews the leases of fake nodes.
    "--node-monitor-grace-period=24h",
    "--node-startup-grace-period=24h",
    "--horizontal-pod-autoscaler-sync-period=3s",
    "--horizontal-pod-autoscaler-downscale-stabilization=3s",
    "--horizontal-pod-autoscaler-initial-readiness-delay=0s",
    "--horizontal-pod-autoscaler-cpu-initialization-period=0s",
    "--resource-quota-sync-period=5s",
    "--namespace-sync-period=5s",
)


def etcd_url(address: str) -> str:
    """Where etcd answers, without a password: only this machine reaches it."""
    return f"http://{address}:{_ETCD_PORT}"


def etcd_flags(address: str, data: Path) -> list[str]:
    """Of etcd with its files in ``data``."""
    peer = f"http://{address}:{_PEER_PORT}"
    own = {
        "name": "tests",
        "data-dir": data,
        "listen-client-urls": etcd_url(address),
        "advertise-client-urls": etcd_url(address),
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"tests={peer}",
        "log-level": "warn",
    }
    return ["--unsafe-no-fsync", *_flags(own)]


def api_server_flags(
    address: str, authority: Authority, serving: Certificate, token_key: Path
) -> list[str]:
    """Of kube-apiserver."""
    own = {
        "bind-address": address,
        "advertise-address": address,
        "etcd-servers": etcd_url(address),
        "client-ca-file": authority.own.certificate,
        "tls-cert-file": serving.certificate,
        "tls-private-key-file": serving.key,
        "service-account-key-file": token_key,
        "service-account-signing-key-file": token_key,
    }
    return [*_API_SERVER, *_flags(own)]


def controller_manager_flags(
    kubeconfig: Path, authority: Authority, token_key: Path, without: Sequence[str] = ()
) -> list[str]:
    """Of kube-controller-manager, ``without`` these controllers."""
    own = {
        "kubeconfig": kubeconfig,
        "service-account-private-key-file": token_key,
        "root-ca-file": authority.own.certificate,
        "cluster-signing-cert-file": authority.own.certificate,
        "cluster-signing-key-file": authority.own.key,
        "controllers": ",".join(("*", *(f"-{name}" for name in without))),
    }
    return [*_CLIENTS, *_CONTROLLER_MANAGER, *_flags(own)]


def scheduler_flags(kubeconfig: Path) -> list[str]:
    """Of kube-scheduler."""
    return [*_CLIENTS, f"--kubeconfig={kubeconfig}"]


def _flags(values: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
