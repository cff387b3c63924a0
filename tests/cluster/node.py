"""A node: a machine with containerd, kubelet and kube-proxy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.apiserver_certificates import Certificate
from tests.cluster.addresses import Addresses
from tests.cluster.base_images import pause_archive
from tests.cluster.machine import Machine
from tests.cluster.node_files import (
    cni_config,
    containerd_config,
    init_script,
    kubelet_config,
    proxy_config,
)
from tests.kube_tools import kube_tool
from tests.proxy import wait_until

__all__ = ["Node"]

_IMAGES: Final = Path(__file__).parent.parent.parent / ".cache" / "images"
_START_SECONDS: Final = 30


class Node:
    """Node ``index``; its files, also those of its pods and images, outlive its machine."""

    def __init__(
        self,
        at: Addresses,
        index: int,
        parent: Path,
        environment: Mapping[str, str],
        *,
        authority: Path,
        serving: Certificate,
        kubeconfig: Path,
        proxy_kubeconfig: Path,
    ) -> None:
        name = at.node_name(index)
        folder = parent / f"node-{index}"
        # Programs of the network and of containers are where a user's PATH may not lead.
        path = f"{environment['PATH']}:/usr/sbin:/sbin"
        self.machine = Machine(name, folder, init_script(folder), {**environment, "PATH": path})
        plugins = folder / "plugins-of-network"
        plugins.mkdir()
        (plugins / "10-pods.conflist").write_text(cni_config(at, index))
        self._containerd = folder / "containerd.toml"
        self._containerd.write_text(containerd_config(plugins))
        kubelet, proxy = folder / "kubelet.json", folder / "kube-proxy.json"
        kubelet.write_text(kubelet_config(at, index, folder, authority, serving))
        proxy.write_text(proxy_config(at, index, proxy_kubeconfig))
        self._kubelet_flags = (
            f"--config={kubelet}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={name}",
            f"--node-ip={at.node(index)}",
            "--root-dir=/var/lib/kubelet",
        )
        self._proxy_flags = (f"--config={proxy}",)

    def start(self) -> None:
        """The machine with containerd; returns when that answers."""
        self.machine.start()
        self.machine.start_program("containerd", "containerd", "--config", str(self._containerd))

        def answers() -> bool:
            assert self.machine.is_program_running("containerd"), self.machine.log("containerd")
            return self.machine.run("ctr", "version", check=False).returncode == 0

        wait_until(answers, f"containerd of {self.machine.name} answers", _START_SECONDS, 0.1)
        self.import_image(pause_archive(_IMAGES))

    def start_kubelet(self) -> None:
        """Kubelet and kube-proxy; the API server must be ready."""
        self.machine.start_program("kubelet", str(kube_tool("kubelet")), *self._kubelet_flags)
        self.machine.start_program("kube-proxy", str(kube_tool("kube-proxy")), *self._proxy_flags)

    def import_image(self, archive: Path) -> None:
        """The image of an archive, for pods of this node."""
        self.machine.run("ctr", "--namespace=k8s.io", "images", "import", str(archive))
