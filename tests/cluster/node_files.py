"""What the programs of a node are told: containerd, its network plugins, kubelet, kube-proxy."""

import json
from pathlib import Path
from typing import Any, Final

from tests.apiserver_certificates import Certificate
from tests.cluster.addresses import DNS_DOMAIN, Addresses
from tests.cluster.base_images import PAUSE_IMAGE

__all__ = ["cni_config", "containerd_config", "init_script", "kubelet_config", "proxy_config"]

_DISABLED: Final = (
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
)
# The kubelet would set these for all of the machine; it is content with files that hold them.
_KERNEL_SETTINGS: Final = {
    "kernel/keys/root_maxbytes": 25000000,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
}
_KEPT: Final = {
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "cni": "/var/lib/cni",
    "pods": "/var/log/pods",
}


def init_script(folder: Path) -> str:
    """What a node has for itself of the file system; the rest it shares with this machine."""
    lines = [
        "mount -t tmpfs -o mode=755 tmpfs /run",
        "mkdir -p /run/netns /run/lock /run/xtables /run/settings /var/log/containers",
        "mkdir -p " + " ".join(_KEPT.values()),
        "mkdir -p " + " ".join(str(folder / name) for name in _KEPT),
        *(f"mount --bind {folder / name} {place}" for name, place in _KEPT.items()),
        "mount --make-rshared /var/lib/kubelet",
        "mount -t tmpfs tmpfs /var/log/containers",
    ]
    for setting, value in _KERNEL_SETTINGS.items():
        file = f"/run/settings/{setting.replace('/', '.')}"
        lines += [f"echo {value} >{file}", f"mount --bind {file} /proc/sys/{setting}"]
    return "\n".join(lines)


def containerd_config(plugins: Path) -> str:
    """``plugins``: the folder of the network's configuration."""
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = {json.dumps(_DISABLED)}
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Lower scores than our own need a capability that a container has not.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{plugins}"
"""


def cni_config(at: Addresses, index: int) -> str:
    """Pods hang on a bridge; this plugin enforces no NetworkPolicy."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": at.pods_of(index)}]]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]})


def kubelet_config(
    at: Addresses, index: int, folder: Path, authority: Path, serving: Certificate
) -> str:
    """A lost node is noticed in seconds; images are never cleared away; crashes restart soon."""
    (folder / "resolv.conf").touch()
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{at.node_name(index)}",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "10s"},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "clusterDNS": [at.dns_service],
        "clusterDomain": DNS_DOMAIN,
        "resolvConf": str(folder / "resolv.conf"),
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "nodeStatusUpdateFrequency": "3s",
        "nodeLeaseDurationSeconds": 10,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        "serializeImagePulls": False,
        "volumePluginDir": str(folder / "plugins"),
        "crashLoopBackOff": {"maxContainerRestartPeriod": "10s"},
    }
    return json.dumps(config)


def proxy_config(at: Addresses, index: int, kubeconfig: Path) -> str:
    """Some settings of connection tracking belong to the whole machine: they stay as they are."""
    config: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": at.node_name(index),
        "clusterCIDR": at.pods,
        "detectLocalMode": "ClusterCIDR",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nftables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }
    return json.dumps(config)
