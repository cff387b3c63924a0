"""What a cluster on this machine needs and this machine lacks.

``python3 tests/cluster/requirements.py`` prints what of it no Go compiler brings, ``--packages``
the Debian packages alone, ``--kube-tools`` all programs of Kubernetes, ``--tier`` what stops the
tier ``e2e``.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.kube_tools import missing_tools

__all__ = ["KUBE_TOOLS", "missing", "missing_for_tier"]

KUBE_TOOLS: Final = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"),
    *("kube-proxy", "kubectl", "coredns", "helm"),
)
_PACKAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "buildah": "buildah",
        "conntrack": "conntrack",
        "containerd": "containerd",
        "debootstrap": "debootstrap",
        "gcc": "gcc",
        "ip": "iproute2",
        "iptables": "iptables",
        "nft": "nftables",
        "nsenter": "util-linux",
        "openssl": "openssl",
        "runc": "runc",
        "socat": "socat",
        "sysctl": "procps",
        "/usr/lib/cni/bridge": "containernetworking-plugins",
        "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev",
    }
)
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing() -> list[str]:
    """What no package brings, then packages of Debian."""
    return [*_rights(), *_packages()]


def missing_for_tier() -> list[str]:
    """Without this the tier ``e2e`` cannot run; a cluster that is given needs little here."""
    if os.environ.get("E2E_KUBECONFIG"):
        return missing_tools(("kubectl", "helm"))
    return [*missing(), *missing_tools(KUBE_TOOLS)]


def _rights() -> list[str]:
    if sys.platform != "linux" or os.geteuid() != 0:
        return ["root-on-Linux"]
    # By these a node's pods are told apart, and their processes found.
    return [] if Path("/sys/fs/cgroup/memory").is_mount() else ["cgroups-of-version-1"]


def _packages() -> list[str]:
    """Those of which something is nowhere."""
    return [package for tool, package in _PACKAGES.items() if not _is_there(tool)]


def _is_there(tool: str) -> bool:
    if tool.startswith("/"):
        return Path(tool).exists()
    return shutil.which(tool, path=_PATH) is not None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--packages"]:
            print(*_packages())
        case ["--kube-tools"]:
            print(*KUBE_TOOLS)
        case words:
            found = missing_for_tier() if words == ["--tier"] else missing()
            print(*found)
            sys.exit(bool(found))
