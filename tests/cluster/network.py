"""Links and routes of a cluster: a network namespace for the control plane and one for each node.

Neither has a default route, so nothing inside reaches anything outside. The machine reaches pods
and ClusterIPs by routes, and no rule of a firewall is ever made in its own namespace.
"""

import subprocess
from pathlib import Path
from typing import Final

from tests.cluster.addresses import Addresses

__all__ = ["Network", "remove_network"]

NAMESPACES: Final = Path("/run/netns")
# Chosen only when no better route is left: else a ClusterIP would leave by the default route.
_LAST: Final = ("metric", "9999")
_FORWARDING: Final = {
    "net.ipv4.ip_forward": 1,
    "net.bridge.bridge-nf-call-iptables": 1,
    # Else the machine remembers that a ClusterIP is on the link, and asks a node that is gone.
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv4.conf.eth0.send_redirects": 0,
}


class Network:
    """Of one cluster; ``remove_network`` takes it away."""

    def __init__(self, addresses: Addresses) -> None:
        self._at = addresses
        self._nodes: set[int] = set()

    def create(self) -> None:
        """The control plane's namespace, with the bridge, and the machine's link to it."""
        at, inside = self._at, self._at.control_plane_name
        _ip("netns", "add", inside)
        peer = ("peer", "name", "machine", "netns", inside)
        _ip("link", "add", _link(at), "type", "veth", *peer)
        _ip("addr", "add", f"{at.machine}/24", "dev", _link(at))
        _ip("link", "set", _link(at), "up")
        _ip("-n", inside, "link", "add", "bridge", "type", "bridge")
        _ip("-n", inside, "addr", "add", f"{at.control_plane}/24", "dev", "bridge")
        _ip("-n", inside, "link", "set", "machine", "master", "bridge")
        for link in ("lo", "machine", "bridge"):
            _ip("-n", inside, "link", "set", link, "up")
        for addresses in (at.pods, at.services):
            _ip("route", "add", "unreachable", addresses, *_LAST)

    def add_node(self, index: int) -> None:
        """The namespace of a node. The machine reaches ClusterIPs through node 0."""
        at, name = self._at, self._at.node_name(index)
        inside = at.control_plane_name
        _ip("netns", "add", name)
        port = _port(index)
        _ip(
            "-n", inside, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name
        )
        _ip("-n", inside, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "add", f"{at.node(index)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        # ClusterIPs are translated after a route was found, so there must be one.
        _ip("-n", name, "route", "add", at.services, "dev", "eth0")
        settings = [f"{setting}={value}" for setting, value in _FORWARDING.items()]
        _run("nsenter", f"--net={NAMESPACES / name}", "sysctl", "--quiet", "--write", *settings)
        for where in ([], ["-n", inside]):
            _ip(*where, "route", "replace", at.pods_of(index), "via", at.node(index))
            if index == 0:
                _ip(*where, "route", "replace", at.services, "via", at.node(0))
        for other in self._nodes:
            there = at.node_name(other)
            _ip("-n", name, "route", "add", at.pods_of(other), "via", at.node(other))
            _ip("-n", there, "route", "add", at.pods_of(index), "via", at.node(index))
        self._nodes.add(index)

    def cut(self, index: int) -> None:
        """Nobody hears from the node any more, nor it from anybody."""
        _ip("-n", self._at.control_plane_name, "link", "set", _port(index), "down")

    def join(self, index: int) -> None:
        """Undo ``cut``."""
        _ip("-n", self._at.control_plane_name, "link", "set", _port(index), "up")


def remove_network(at: Addresses) -> None:
    """Whatever is there of a cluster's; its processes must be gone. The links go with the
    namespaces, and with the machine's link its routes."""
    for name in NAMESPACES.glob(f"{at.name}-*"):
        _ip("netns", "del", name.name)
    if NAMESPACES.exists() and not any(NAMESPACES.iterdir()):
        # The first `ip netns add` makes it, and mounts it on itself.
        _run("umount", str(NAMESPACES), check=False)
        NAMESPACES.rmdir()
    _ip("link", "del", _link(at), check=False)
    for addresses in (at.pods, at.services):
        _ip("route", "del", "unreachable", addresses, *_LAST, check=False)


def _link(at: Addresses) -> str:
    return f"{at.name}-host"


def _port(index: int) -> str:
    return f"node{index}"


def _ip(*words: str, check: bool = True) -> None:
    _run("ip", *words, check=check)


def _run(*words: str, check: bool = True) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
