"""Names and addresses of a cluster of this machine, by its number: no two clusters share one."""

from dataclasses import dataclass
from typing import Final

__all__ = ["CLUSTERS", "DNS_DOMAIN", "Addresses"]

CLUSTERS: Final = 8
DNS_DOMAIN: Final = "cluster.local"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Of cluster ``number``. The machine, the control plane and the nodes are on one link."""

    number: int

    @property
    def name(self) -> str:
        """Begins the names of its namespaces, links and cgroups. A link's name is short."""
        return f"sampler{self.number}"

    @property
    def machine(self) -> str:
        """Where the machine itself is on the link."""
        return f"172.31.{240 + self.number}.1"

    @property
    def control_plane(self) -> str:
        """Where the API server and the cluster's DNS are."""
        return f"172.31.{240 + self.number}.2"

    @property
    def control_plane_name(self) -> str:
        """Its network namespace."""
        return f"{self.name}-cp"

    def node(self, index: int) -> str:
        """Where node ``index`` is."""
        return f"172.31.{240 + self.number}.{10 + index}"

    def node_name(self, index: int) -> str:
        """At the API server, and of its network namespace and cgroups."""
        return f"{self.name}-n{index}"

    @property
    def pods(self) -> str:
        """All addresses of pods."""
        return f"10.{208 + self.number}.0.0/16"

    def pods_of(self, index: int) -> str:
        """Addresses of pods of one node."""
        return f"10.{208 + self.number}.{index}.0/24"

    @property
    def services(self) -> str:
        """All ClusterIPs."""
        return f"10.{224 + self.number}.0.0/16"

    @property
    def api_service(self) -> str:
        """ClusterIP of the service ``kubernetes``."""
        return f"10.{224 + self.number}.0.1"

    @property
    def dns_service(self) -> str:
        """ClusterIP of the cluster's DNS."""
        return f"10.{224 + self.number}.0.10"
